-- What image configs say, by their digest, whether or not a rule asks for it today.
CREATE TABLE config (
    digest TEXT PRIMARY KEY,
    facts  TEXT NOT NULL
) WITHOUT ROWID;

-- When a repository first came by a content here, in milliseconds.
ALTER TABLE possession ADD COLUMN first_seen INTEGER;

-- Since when a tag names a digest without a break, and when the upstream last said so.
ALTER TABLE sight ADD COLUMN since INTEGER;
ALTER TABLE sight ADD COLUMN last INTEGER;
UPDATE sight SET since = first_seen, last = first_seen;

-- What leads to a digest in any repository: a recalled index covers its children everywhere.
CREATE INDEX edge_by_child ON edge (child);

-- The digest an exception on a tag was first used for.
CREATE TABLE binding (
    name      TEXT NOT NULL,
    exception TEXT NOT NULL,
    tag       TEXT NOT NULL,
    digest    TEXT NOT NULL,
    PRIMARY KEY (name, exception, tag)
) WITHOUT ROWID;

-- Manifests by the digest they were verified against.
CREATE TABLE manifest (
    digest     TEXT PRIMARY KEY,
    media_type TEXT NOT NULL,
    bytes      BLOB NOT NULL
) WITHOUT ROWID;

-- Which repository came by which content itself.
CREATE TABLE possession (
    name   TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (name, digest)
) WITHOUT ROWID;

-- What the manifests of a repository lead to.
CREATE TABLE edge (
    name       TEXT NOT NULL,
    child      TEXT NOT NULL,
    parent     TEXT NOT NULL,
    role       TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size       INTEGER NOT NULL,
    PRIMARY KEY (name, child, parent, role)
) WITHOUT ROWID;
CREATE INDEX edge_by_parent ON edge (name, parent);

-- What is about what: referrers and sha256-… tags.
CREATE TABLE companion (
    name    TEXT NOT NULL,
    digest  TEXT NOT NULL,
    subject TEXT NOT NULL,
    PRIMARY KEY (name, digest, subject)
) WITHOUT ROWID;

-- Tags: the first digest served, and what the upstream last said (asked, in milliseconds).
CREATE TABLE tag (
    name    TEXT NOT NULL,
    tag     TEXT NOT NULL,
    locked  TEXT,
    current TEXT,
    asked   INTEGER NOT NULL,
    PRIMARY KEY (name, tag)
) WITHOUT ROWID;

-- Every digest a tag was seen at: whether it was served here, and whether a drift to it is on record.
CREATE TABLE sight (
    name       TEXT NOT NULL,
    tag        TEXT NOT NULL,
    digest     TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    served     INTEGER NOT NULL DEFAULT 0,
    recorded   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, tag, digest)
) WITHOUT ROWID;
CREATE INDEX sight_by_digest ON sight (name, digest);

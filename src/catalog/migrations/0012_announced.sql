-- What of the policy is on record by an event of its own: exceptions and recalls, as they were told last.
CREATE TABLE announced (
    kind    TEXT NOT NULL,
    id      TEXT NOT NULL,
    content TEXT NOT NULL,
    ended   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;

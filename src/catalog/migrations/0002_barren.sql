-- Children that could not be fetched to look inside, and until when none is tried again (milliseconds).
CREATE TABLE barren (
    name   TEXT NOT NULL,
    digest TEXT NOT NULL,
    until  INTEGER NOT NULL,
    PRIMARY KEY (name, digest)
) WITHOUT ROWID;

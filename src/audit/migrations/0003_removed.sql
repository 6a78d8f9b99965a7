-- What retention removed: places of events that are gone, in runs, with the hash that the first of them
-- named as the one before, and the hash of the last. An event of its own vouches for the list.
CREATE TABLE removed (
    first    INTEGER PRIMARY KEY,
    last     BIGINT NOT NULL,
    previous TEXT   NOT NULL,
    hash     TEXT   NOT NULL
);

-- How far each step of retention has come.
CREATE TABLE retention (
    level   INTEGER PRIMARY KEY,
    through BIGINT NOT NULL
);

-- One row an event, written once. `body` is the whole event; the other columns are what filters
-- and joins need without reading it. `parent` is the decision (or flood) that a repeat, a transfer
-- or a flood's closing row belongs to; times are milliseconds since 1970.
CREATE TABLE event (
    seq        INTEGER PRIMARY KEY,
    id         TEXT   NOT NULL,
    time       BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    parent     TEXT,
    pull_id    TEXT,
    verdict    TEXT,
    reason     TEXT,
    registry   TEXT,
    repository TEXT,
    tag        TEXT,
    digest     TEXT,
    client     TEXT,
    address    TEXT,
    reference  TEXT,
    last       BIGINT,
    body       TEXT   NOT NULL
);

CREATE UNIQUE INDEX event_id ON event (id);
CREATE INDEX event_time ON event (time);
CREATE INDEX event_parent ON event (parent) WHERE parent IS NOT NULL;
CREATE INDEX event_blocked ON event (seq) WHERE verdict IN ('deny', 'hold');

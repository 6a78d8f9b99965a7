-- Made anew from the record whenever `VERSION` (schema.rs) differs; `visit` alone is carried over.
-- Times are milliseconds since 1970.
CREATE TABLE IF NOT EXISTS visit (
    user TEXT   PRIMARY KEY,
    at   BIGINT NOT NULL
) WITHOUT ROWID;

-- How far the record is counted: the place and the id of the last event, and the latest time met.
CREATE TABLE place (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    seq    BIGINT NOT NULL,
    event  TEXT   NOT NULL,
    newest BIGINT NOT NULL
);
INSERT INTO place VALUES (1, 0, '', 0);

CREATE TABLE refused (
    id           INTEGER PRIMARY KEY,
    key          TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    reference    TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    reasons      TEXT   NOT NULL,
    verdict      TEXT   NOT NULL,
    registry     TEXT,
    repository   TEXT,
    tag          TEXT,
    digest       TEXT,
    source       TEXT,
    count        BIGINT NOT NULL,
    first        BIGINT NOT NULL,
    last         BIGINT NOT NULL,
    clients      BIGINT NOT NULL,
    latest       TEXT   NOT NULL,
    message      TEXT   NOT NULL,
    remedy       TEXT,
    sample       TEXT   NOT NULL,
    state        TEXT   NOT NULL,
    note         TEXT,
    changed_by   TEXT,
    changed      BIGINT,
    reopened     BOOLEAN NOT NULL,
    since_change BIGINT NOT NULL,
    newly        BIGINT NOT NULL
);
CREATE UNIQUE INDEX refused_key ON refused (key);
CREATE INDEX refused_last ON refused (last, id);
CREATE INDEX refused_first ON refused (first, id);
CREATE INDEX refused_count ON refused (count, id);
CREATE INDEX refused_state ON refused (state, last, id);
CREATE INDEX refused_once ON refused (last, id)
    WHERE count = 1 AND state = 'new' AND note IS NULL AND kind <> 'others';

CREATE TABLE client (
    id           INTEGER PRIMARY KEY,
    who          TEXT   NOT NULL,
    name         TEXT,
    address      TEXT   NOT NULL,
    attribution  TEXT   NOT NULL,
    runtimes     TEXT   NOT NULL,
    pulls        BIGINT NOT NULL,
    refusals     BIGINT NOT NULL,
    bytes        BIGINT NOT NULL,
    first        BIGINT NOT NULL,
    last         BIGINT NOT NULL,
    last_refused BIGINT
);
CREATE UNIQUE INDEX client_who ON client (who);
CREATE INDEX client_last ON client (last, id);
CREATE INDEX client_pulls ON client (pulls, id);
CREATE INDEX client_refusals ON client (refusals, id);

CREATE TABLE met (
    refused BIGINT NOT NULL,
    client  BIGINT NOT NULL,
    runtime TEXT   NOT NULL,
    count   BIGINT NOT NULL,
    first   BIGINT NOT NULL,
    last    BIGINT NOT NULL,
    PRIMARY KEY (refused, client)
) WITHOUT ROWID;
CREATE INDEX met_client ON met (client);

-- `step` is the length in milliseconds.
CREATE TABLE bucket (
    step          BIGINT NOT NULL,
    at            BIGINT NOT NULL,
    allow         BIGINT NOT NULL,
    warn          BIGINT NOT NULL,
    hold          BIGINT NOT NULL,
    deny          BIGINT NOT NULL,
    hits          BIGINT NOT NULL,
    misses        BIGINT NOT NULL,
    stale         BIGINT NOT NULL,
    offline       BIGINT NOT NULL,
    bytes_cached  BIGINT NOT NULL,
    bytes_fetched BIGINT NOT NULL,
    PRIMARY KEY (step, at)
) WITHOUT ROWID;

-- Refusals of one group (`what` = 0) or one client (1) within a step.
CREATE TABLE tally (
    what  BIGINT NOT NULL,
    step  BIGINT NOT NULL,
    at    BIGINT NOT NULL,
    id    BIGINT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (what, step, at, id)
) WITHOUT ROWID;

CREATE TABLE drift (
    seq        INTEGER PRIMARY KEY,
    id         TEXT   NOT NULL,
    time       BIGINT NOT NULL,
    registry   TEXT   NOT NULL,
    repository TEXT   NOT NULL,
    tag        TEXT   NOT NULL,
    locked     TEXT,
    current    TEXT
);

CREATE TABLE upstream (
    seq        INTEGER PRIMARY KEY,
    id         TEXT   NOT NULL,
    time       BIGINT NOT NULL,
    registry   TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    text       TEXT,
    repository TEXT,
    digest     TEXT
);

CREATE TABLE alert (
    seq       INTEGER PRIMARY KEY,
    id        TEXT   NOT NULL,
    time      BIGINT NOT NULL,
    rule      TEXT   NOT NULL,
    text      TEXT   NOT NULL,
    count     BIGINT NOT NULL,
    of        TEXT,
    reference TEXT
);

CREATE TABLE exception (
    id            TEXT   PRIMARY KEY,
    image         TEXT   NOT NULL,
    waive         TEXT   NOT NULL,
    expires       TEXT,
    result        TEXT,
    changed       BIGINT,
    last_used     BIGINT,
    last_decision TEXT,
    used          BIGINT NOT NULL,
    needed        BIGINT NOT NULL,
    unneeded      BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE recall (
    id       TEXT   PRIMARY KEY,
    reason   TEXT   NOT NULL,
    names    TEXT   NOT NULL,
    replaced TEXT,
    result   TEXT   NOT NULL,
    first    BIGINT NOT NULL,
    changed  BIGINT NOT NULL
) WITHOUT ROWID;

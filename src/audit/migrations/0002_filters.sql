-- What filters look for, each in the order of places. What belongs to another event (repeats,
-- transfers) is found through it alone and stands in none of these.
DROP INDEX event_time;
DROP INDEX event_parent;
DROP INDEX event_blocked;

CREATE INDEX event_time ON event (time) WHERE parent IS NULL;
CREATE INDEX event_parent ON event (parent, last) WHERE parent IS NOT NULL;
CREATE INDEX event_registry ON event (registry) WHERE parent IS NULL AND registry IS NOT NULL;
CREATE INDEX event_repository ON event (repository) WHERE parent IS NULL AND repository IS NOT NULL;
CREATE INDEX event_tag ON event (tag) WHERE parent IS NULL AND tag IS NOT NULL;
CREATE INDEX event_digest ON event (digest) WHERE parent IS NULL AND digest IS NOT NULL;
CREATE INDEX event_client ON event (client) WHERE parent IS NULL AND client IS NOT NULL;
CREATE INDEX event_address ON event (address) WHERE parent IS NULL AND address IS NOT NULL;
CREATE INDEX event_reason ON event (reason) WHERE parent IS NULL AND reason IS NOT NULL;
CREATE INDEX event_verdict ON event (verdict) WHERE parent IS NULL AND verdict IS NOT NULL;
CREATE INDEX event_kind ON event (kind) WHERE parent IS NULL AND kind <> 'decision';
CREATE INDEX event_reference ON event (reference)
    WHERE parent IS NULL AND repository IS NULL AND reference IS NOT NULL;

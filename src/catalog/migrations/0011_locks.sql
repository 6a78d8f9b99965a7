-- Since when a tag has its lock, and by what: served, pin, import.
ALTER TABLE tag ADD COLUMN locked_at INTEGER;
ALTER TABLE tag ADD COLUMN locked_by TEXT;

-- How a digest first came to a tag, where it was not the upstream that named it.
ALTER TABLE sight ADD COLUMN whence TEXT;

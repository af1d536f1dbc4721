-- The agent's journal: every delivery that it was given, until it is certain that it cannot come again.
CREATE TABLE deliveries (
    -- Order of acceptance: the order in which waiting deliveries start.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The delivery's id.
    delivery BLOB NOT NULL UNIQUE CHECK (length(delivery) = 16),
    -- The dispatch attempt that was accepted.
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    -- Where it stands; the words of the protocol.
    state TEXT NOT NULL CHECK (state IN (
        'accepted', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'interrupted', 'expired', 'refused')),
    -- The specification, byte for byte; NULL once the outcome is stored at the server.
    spec BLOB,
    -- The values of its secret variables as JSON, while it waits to start; wiped then.
    secrets TEXT,
    -- Until when a server may dispatch it, in Unix milliseconds by the server's clock.
    not_after_ms INTEGER NOT NULL,
    -- How it ended, as the JSON that is reported; NULL while it has not.
    outcome TEXT,
    -- 1: the server has the outcome. What is left is a tombstone, so that a server which was restored from an old
    -- backup gets the old outcome instead of a second run.
    stored INTEGER NOT NULL DEFAULT 0 CHECK (stored IN (0, 1)),
    CHECK ((outcome IS NULL) = (state IN ('accepted', 'running'))),
    CHECK (secrets IS NULL OR state = 'accepted'),
    CHECK (stored = 0 OR outcome IS NOT NULL),
    CHECK ((spec IS NULL) = (stored = 1))
) STRICT;

-- Which journal this is: what tells it from a copy or an older state of it. Exactly one row.
CREATE TABLE lineage (
    -- Keeps it at one row.
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- The latest epoch of which the server was told that it is here; 0: none.
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    -- Where the file was then; see place.rs.
    place TEXT NOT NULL
) STRICT;

-- Recovery and the limit on held entries look at these alone.
CREATE INDEX held ON deliveries (seq) WHERE stored = 0;
-- Tombstones whose time has come.
CREATE INDEX tombstones ON deliveries (not_after_ms) WHERE stored = 1;

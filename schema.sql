-- The whole current schema of the server's database. A new file is made from this; an older file is taken here
-- step by step by src/store/migrate.rs, and a test holds the two together.
-- Times are Unix milliseconds by the server's clock. Ids are UUIDv7, 16 bytes; `seq` numbers order rows here.
-- The states and their moves are those of src/protocol/state.rs; a property test compares.
-- Lists in constraints are texts that are searched: for each `IN (…)` of more than two values SQLite would make a table of
-- its own every time that a row is written, which cost several times what the row does.

-- Which database this is. Exactly one row.
CREATE TABLE server (
    one         INTEGER PRIMARY KEY CHECK (one = 1),    -- keeps it at one row
    id          BLOB NOT NULL CHECK (length(id) = 16),  -- in join strings, and signed by agents
    created_ms  INTEGER NOT NULL                        -- when the file was made
) STRICT;

-- Operators' tokens. The secret itself is nowhere.
CREATE TABLE tokens (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    name        TEXT NOT NULL,                          -- whose; shown in history
    role        TEXT NOT NULL CHECK (role IN ('viewer', 'technician', 'owner')),
    scope       TEXT NOT NULL DEFAULT '{}' CHECK (json_type(scope) = 'object'), -- key to allowed values of the agents it reaches; {}: all
    hash        BLOB NOT NULL UNIQUE CHECK (length(hash) = 32), -- SHA-256 of the token
    made_by     INTEGER REFERENCES tokens (seq),        -- NULL: the server, at its first start
    created_ms  INTEGER NOT NULL,
    expires_ms  INTEGER,                                -- NULL: until revoked
    revoked_ms  INTEGER,                                -- NULL: good
    used_ms     INTEGER,                                -- last use, to the minute; NULL: never
    used_from   TEXT,                                   -- the address of that
    totp        BLOB,                                   -- sealed secret of its one-time passwords; NULL: none are asked for
    totp_step   INTEGER NOT NULL DEFAULT 0              -- the latest time step whose password was used; 0: the secret is not proven yet
) STRICT;
CREATE UNIQUE INDEX tokens_name ON tokens (name) WHERE revoked_ms IS NULL;

-- Join strings, by which agents enroll.
CREATE TABLE joins (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    hash        BLOB NOT NULL UNIQUE CHECK (length(hash) = 32), -- SHA-256 of the secret in the string
    created_ms  INTEGER NOT NULL,
    created_by  TEXT NOT NULL,                          -- name of the token that made it
    expires_ms  INTEGER NOT NULL,
    uses_max    INTEGER NOT NULL CHECK (uses_max >= 1),
    uses        INTEGER NOT NULL DEFAULT 0 CHECK (uses BETWEEN 0 AND uses_max),
    tags        TEXT NOT NULL DEFAULT '{}' CHECK (json_type(tags) = 'object'), -- what its agents carry, whatever they say
    approve     INTEGER NOT NULL DEFAULT 0 CHECK (approve IN (0, 1)), -- 1: its agents wait for somebody's approval
    revoked_ms  INTEGER                                 -- NULL: not revoked
) STRICT;

-- Enrolled agents.
CREATE TABLE agents (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    name        TEXT NOT NULL,                          -- a label: two agents may share one
    public_key  BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32), -- Ed25519; the private key never leaves the agent
    tags        TEXT NOT NULL CHECK (json_type(tags) = 'object'),     -- key to value
    join_seq    INTEGER NOT NULL REFERENCES joins (seq), -- what it enrolled with
    enrolled_ms INTEGER NOT NULL,
    enrolled_from TEXT,                                 -- the address that it enrolled from; NULL: not known
    approved_ms INTEGER,                                -- NULL: pending; it is given nothing
    revoked_ms  INTEGER,                                -- NULL: not revoked
    epoch       INTEGER NOT NULL DEFAULT 0,             -- of the latest session; only grows
    ready_epoch INTEGER NOT NULL DEFAULT 0,             -- the latest that is known to be in the agent's journal
    challenge   INTEGER NOT NULL DEFAULT 0,             -- number of the connection that the latest session is on; 0 after a start
    clash_ms    INTEGER,                                -- when a hello last came from another journal than that; NULL: never
    session_open INTEGER NOT NULL DEFAULT 0 CHECK (session_open IN (0, 1)), -- 1: that session has not ended in order
    connected_ms INTEGER,                               -- when the latest session began
    proven_ms   INTEGER,                                -- last proven round trip, written when a session ends
    close_reason TEXT,                                  -- why the latest session ended
    closed_ms   INTEGER,                                -- when it ended
    pin         BLOB CHECK (pin IS NULL OR length(pin) = 32), -- the newest authority of ours that it knows; NULL: none
    version     TEXT,                                   -- of the agent, from its latest hello
    os          TEXT,                                   -- likewise
    facts       TEXT CHECK (facts IS NULL OR json_valid(facts)) -- host inventory
) STRICT;
CREATE INDEX agents_name ON agents (name) WHERE revoked_ms IS NULL;

-- What was asked, once.
CREATE TABLE commands (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    created_ms  INTEGER NOT NULL,
    token_seq   INTEGER NOT NULL REFERENCES tokens (seq), -- who asked
    spec        TEXT NOT NULL,                          -- the specification document, byte for byte
    timeout_ms  INTEGER NOT NULL CHECK (timeout_ms > 0), -- copied from the document
    not_after_ms INTEGER NOT NULL,                      -- copied from the document
    output_bytes_max INTEGER NOT NULL CHECK (output_bytes_max >= 0), -- copied from the document; for each stream
    note        TEXT,                                   -- for people
    approval    INTEGER NOT NULL DEFAULT 0 CHECK (approval IN (0, 1)), -- 1: a second person has to approve it
    approved_by INTEGER REFERENCES tokens (seq),        -- NULL: nobody has
    approved_ms INTEGER,
    idempotency_key TEXT,                               -- the client's; NULL: none given
    idempotency_hash BLOB CHECK (idempotency_hash IS NULL OR length(idempotency_hash) = 32), -- SHA-256 of target and body; with secrets in it a mark by the seal key
    CHECK ((approved_by IS NULL) = (approved_ms IS NULL)),
    CHECK (approval = 1 OR approved_by IS NULL)
) STRICT;
CREATE UNIQUE INDEX commands_idempotency ON commands (token_seq, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX commands_created ON commands (created_ms);

-- One command for one agent. The rows in state 'queued' are the outbox; those of them on hold are given to nobody.
CREATE TABLE deliveries (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    command_seq INTEGER NOT NULL REFERENCES commands (seq) ON DELETE CASCADE,
    agent_seq   INTEGER NOT NULL REFERENCES agents (seq),
    state       TEXT NOT NULL DEFAULT 'queued' CHECK (0 < instr(
                    ' queued accepted running succeeded failed timed_out cancelled interrupted expired refused lost ',
                    ' ' || state || ' ') AND instr(state, ' ') = 0),
    attempt     INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0), -- dispatches so far; only grows
    in_doubt    INTEGER NOT NULL DEFAULT 0 CHECK (in_doubt IN (0, 1)), -- 1: dispatched, and no hello has told since whether it arrived
    held        INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)), -- 1: on hold until a second person approves the command
    due_ms      INTEGER NOT NULL,                       -- when the reaper looks at it, while not terminal
    cancel_requested_ms INTEGER,                        -- somebody asked to cancel what the agent holds or may hold
    accepted_ms INTEGER,
    started_ms  INTEGER,
    finished_ms INTEGER,
    exit_code   INTEGER,
    signal      INTEGER,
    reason      TEXT,                                   -- why, where state and code do not say it all
    duration_ms INTEGER CHECK (duration_ms IS NULL OR duration_ms >= 0), -- by the agent's monotonic clock
    stdout_next INTEGER NOT NULL DEFAULT 0,             -- position after the last stored byte
    stdout_kept INTEGER NOT NULL DEFAULT 0,             -- bytes stored
    stdout_bytes INTEGER,                               -- all that was written; known at the end
    stderr_next INTEGER NOT NULL DEFAULT 0,
    stderr_kept INTEGER NOT NULL DEFAULT 0,
    stderr_bytes INTEGER,
    UNIQUE (command_seq, agent_seq),
    CHECK (held = 0 OR (state = 'queued' AND attempt = 0 AND in_doubt = 0)), -- what is on hold has never left
    CHECK (state <> 'queued' OR (accepted_ms IS NULL AND started_ms IS NULL)),
    CHECK (state <> 'accepted' OR (accepted_ms IS NOT NULL AND started_ms IS NULL)),
    CHECK (state <> 'running' OR (accepted_ms IS NOT NULL AND started_ms IS NOT NULL)),
    CHECK ((finished_ms IS NULL) = (state = 'queued' OR state = 'accepted' OR state = 'running')),
    CHECK (state <> 'succeeded' OR exit_code = 0),
    CHECK (exit_code IS NULL OR (finished_ms IS NOT NULL AND state <> 'expired' AND state <> 'refused' AND state <> 'lost'))
) STRICT;
-- A writer's look at its outbox and at what its agent holds: their cost does not grow with history.
CREATE INDEX deliveries_outbox ON deliveries (agent_seq, seq) WHERE state = 'queued' AND held = 0;
CREATE INDEX deliveries_at_agent ON deliveries (agent_seq, seq) WHERE state IN ('accepted', 'running');
-- The reaper's next row.
CREATE INDEX deliveries_due ON deliveries (due_ms) WHERE finished_ms IS NULL;
-- History of one agent.
CREATE INDEX deliveries_agent ON deliveries (agent_seq, command_seq);

-- Secret variables of commands, for as long as a delivery waits to be handed to its agent. Whoever moves a delivery out
-- of 'queued' counts down (src/store/transition.rs). No trigger does: SQLite would gather the rows of each update of a
-- delivery in a table of its own first, which cost more than the update.
CREATE TABLE secrets (
    command_seq INTEGER PRIMARY KEY REFERENCES commands (seq) ON DELETE CASCADE,
    waiting     INTEGER NOT NULL CHECK (waiting >= 0),  -- deliveries that have neither been accepted nor ended
    sealed      BLOB NOT NULL                           -- their names and values, under the seal key
) STRICT;

-- Everything that happened to a delivery: its moves, and what else explains them.
CREATE TABLE transitions (
    seq         INTEGER PRIMARY KEY,                    -- order, and the cursor of event streams
    delivery_seq INTEGER NOT NULL REFERENCES deliveries (seq) ON DELETE CASCADE,
    at_ms       INTEGER NOT NULL,
    before      TEXT NOT NULL,                          -- the state until then; '' for the first row
    event       TEXT NOT NULL,                          -- the state from then on, or 'approved', 'dispatched' or 'cancel_requested'
    epoch       INTEGER,                                -- the session concerned
    attempt     INTEGER,                                -- for 'dispatched'
    cause       TEXT,                                   -- who or what
    CHECK (instr(before || event, ' ') = 0),
    CHECK (event = 'approved' OR event = 'dispatched' OR event = 'cancel_requested' OR 0 < instr(' '
        || '>queued '
        || 'queued>accepted queued>expired queued>cancelled queued>lost '
        || 'accepted>running accepted>cancelled accepted>expired accepted>refused accepted>lost '
        || 'running>succeeded running>failed running>timed_out running>cancelled running>interrupted running>lost '
        || 'lost>succeeded lost>failed lost>timed_out lost>cancelled lost>interrupted lost>expired lost>refused ',
        ' ' || before || '>' || event || ' '))
) STRICT;
CREATE INDEX transitions_delivery ON transitions (delivery_seq, seq);

-- Stored output, in pieces as they came.
CREATE TABLE output (
    seq         INTEGER PRIMARY KEY,                    -- order, and the cursor of event streams
    delivery_seq INTEGER NOT NULL REFERENCES deliveries (seq) ON DELETE CASCADE,
    stream      INTEGER NOT NULL CHECK (stream IN (1, 2)), -- 1 standard output, 2 standard error
    offset      INTEGER NOT NULL CHECK (offset >= 0),   -- position of the first byte in the whole stream
    bytes       BLOB NOT NULL CHECK (length(bytes) > 0)
) STRICT;
CREATE UNIQUE INDEX output_position ON output (delivery_seq, stream, offset);

-- Who did what, in the transaction that did it, and who was refused what. Rows are never changed, and each vouches for
-- all before it (src/protocol/audit.rs).
CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY,                    -- 1, 2, 3 without gaps
    at_ms       INTEGER NOT NULL,
    actor       TEXT NOT NULL,                          -- name of the token, or which part of the server
    token_id    TEXT,                                   -- the token's id; NULL: none that is good
    peer        TEXT,                                   -- the address it came from
    action      TEXT NOT NULL,                          -- such as 'command.submit'; method and route of a refused request
    target      TEXT,                                   -- id of what was acted on
    outcome     TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    detail      TEXT NOT NULL CHECK (json_valid(detail)), -- the rest, as JSON
    hash        BLOB NOT NULL CHECK (length(hash) = 32) -- SHA-256 of the hash before it and of the other columns
) STRICT;
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit rows are never changed'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit rows are never deleted'); END;

-- What agents said of upgrades in their latest hello. One without a row knows nothing of them.
CREATE TABLE agent_releases (
    agent_seq   INTEGER PRIMARY KEY REFERENCES agents (seq),
    platform    TEXT,                                   -- whose executables run there; NULL: it cannot be upgraded
    release     BLOB CHECK (release IS NULL OR length(release) = 32), -- SHA-256 of what it runs; NULL: as it was installed
    cannot      TEXT                                    -- why it cannot be upgraded
) STRICT;

-- Releases that go to agents by waves. At most one is open.
CREATE TABLE rollouts (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    created_ms  INTEGER NOT NULL,
    created_by  TEXT NOT NULL,                          -- name of the token that started it
    scope       TEXT NOT NULL CHECK (json_type(scope) = 'object'), -- to whom
    canaries    INTEGER NOT NULL CHECK (canaries >= 0), -- how many go first
    failures_max INTEGER NOT NULL CHECK (failures_max >= 0), -- one more pauses it
    failures_seen INTEGER NOT NULL DEFAULT 0,           -- failures when it was last resumed: they count no longer
    soak_ms     INTEGER NOT NULL CHECK (soak_ms >= 0),  -- how long the first must have run before the others follow
    window_from INTEGER CHECK (window_from BETWEEN 0 AND 1439), -- minutes of the server's day; NULL: at any hour
    window_to   INTEGER CHECK (window_to BETWEEN 0 AND 1439),
    downgrade   INTEGER NOT NULL CHECK (downgrade IN (0, 1)),
    wave        INTEGER NOT NULL CHECK (wave IN (1, 2)), -- 1: the first agents; 2: all
    state       TEXT NOT NULL DEFAULT 'running' CHECK (state = 'running' OR state = 'paused' OR state = 'stopped' OR state = 'done'),
    reason      TEXT,                                   -- why, where nobody asked for it
    CHECK ((window_from IS NULL) = (window_to IS NULL))
) STRICT;
CREATE UNIQUE INDEX rollouts_open ON rollouts ((1)) WHERE state = 'running' OR state = 'paused';

-- What a rollout rolls out, fixed at its start.
CREATE TABLE rollout_releases (
    rollout_seq INTEGER NOT NULL REFERENCES rollouts (seq),
    platform    TEXT NOT NULL,
    version     TEXT NOT NULL,
    sha256      BLOB NOT NULL CHECK (length(sha256) = 32),
    bytes       INTEGER NOT NULL,
    signature   TEXT NOT NULL,
    PRIMARY KEY (rollout_seq, platform)
) STRICT, WITHOUT ROWID;

-- Each agent's part in a rollout. 'waiting', 'offered' and 'taken' may go back; the agent itself reports the others.
CREATE TABLE rollout_agents (
    rollout_seq INTEGER NOT NULL REFERENCES rollouts (seq),
    agent_seq   INTEGER NOT NULL REFERENCES agents (seq),
    wave        INTEGER CHECK (wave IN (1, 2)),         -- NULL: not offered yet
    state       TEXT NOT NULL DEFAULT 'waiting' CHECK (0 < instr(
                    ' waiting offered taken restarting upgraded failed rolled_back unable ', ' ' || state || ' ')
                    AND instr(state, ' ') = 0),
    attempt     INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    not_before_ms INTEGER NOT NULL DEFAULT 0,           -- it is not offered again before
    offered_epoch INTEGER NOT NULL DEFAULT 0,           -- the session in which it was last offered
    changed_ms  INTEGER NOT NULL,
    reason      TEXT,
    PRIMARY KEY (rollout_seq, agent_seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollout_agents_state ON rollout_agents (rollout_seq, state, agent_seq);

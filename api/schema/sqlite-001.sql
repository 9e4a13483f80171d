-- What akirad remembers, first version (PRAGMA user_version = 1). Contract: src/daemon/store/store.h.
-- Times are wall-clock milliseconds (UTC), 0 = none. Every row of a tenant carries its organisation.

-- check_secret: proves that akira.secret belongs to this database.
CREATE TABLE meta (
	name  TEXT PRIMARY KEY,
	value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE org (
	id                  TEXT PRIMARY KEY,
	name                TEXT NOT NULL,
	tier                TEXT NOT NULL CHECK (tier IN ('beta', 'pro', 'enterprise')),
	suspended           INTEGER NOT NULL CHECK (suspended IN (0, 1)),
	log_output          INTEGER NOT NULL CHECK (log_output IN (0, 1)),
	log_commands        INTEGER NOT NULL CHECK (log_commands IN (0, 1)),
	-- limits: -1 = none
	requests_per_minute INTEGER NOT NULL CHECK (requests_per_minute >= -1),
	sandboxes_max       INTEGER NOT NULL CHECK (sandboxes_max >= -1),
	cpu_units_max       INTEGER NOT NULL CHECK (cpu_units_max >= -1),
	memory_mib_max      INTEGER NOT NULL CHECK (memory_mib_max >= -1),
	storage_gb_max      INTEGER NOT NULL CHECK (storage_gb_max >= -1),
	snapshots_max       INTEGER NOT NULL CHECK (snapshots_max >= -1),
	lifetime_s_max      INTEGER NOT NULL CHECK (lifetime_s_max >= -1),
	execs_max           INTEGER NOT NULL CHECK (execs_max >= -1),
	upload_bytes_max    INTEGER NOT NULL CHECK (upload_bytes_max >= -1),
	created_ms          INTEGER NOT NULL
) STRICT;

CREATE TABLE key (
	id           TEXT PRIMARY KEY,
	org          TEXT NOT NULL REFERENCES org (id),
	name         TEXT NOT NULL,
	prefix       TEXT NOT NULL,
	hash         BLOB NOT NULL UNIQUE CHECK (length(hash) = 32), -- keyed BLAKE2b of the whole key
	scopes       INTEGER NOT NULL CHECK (scopes BETWEEN 0 AND 31),
	created_ms   INTEGER NOT NULL,
	last_used_ms INTEGER NOT NULL,
	expires_ms   INTEGER NOT NULL,
	revoked_ms   INTEGER NOT NULL,
	rotated_to   TEXT NOT NULL
) STRICT;
CREATE INDEX key_org ON key (org, created_ms);

CREATE TABLE sandbox (
	id              TEXT PRIMARY KEY,
	org             TEXT NOT NULL REFERENCES org (id),
	key             TEXT NOT NULL,
	name            TEXT NOT NULL,
	image           TEXT NOT NULL,
	image_digest    TEXT NOT NULL,
	status          INTEGER NOT NULL CHECK (status BETWEEN 0 AND 5), -- creating running paused stopping terminated error
	cpu_units       INTEGER NOT NULL,
	memory_mib      INTEGER NOT NULL,
	storage_gb      INTEGER NOT NULL,
	created_ms      INTEGER NOT NULL,
	started_ms      INTEGER NOT NULL,
	expires_ms      INTEGER NOT NULL,
	terminated_ms   INTEGER NOT NULL,
	timeout_s       INTEGER NOT NULL,
	idle_timeout_s  INTEGER NOT NULL,
	idle_pause      INTEGER NOT NULL CHECK (idle_pause IN (0, 1)),
	snapshot        TEXT NOT NULL,
	reason          TEXT NOT NULL,
	message         TEXT NOT NULL,
	network         TEXT, -- JSON
	metadata        TEXT, -- JSON
	env             BLOB -- sealed: byte 1, nonce, crypto_secretbox
) STRICT;
CREATE INDEX sandbox_org ON sandbox (org, created_ms);
CREATE INDEX sandbox_ended ON sandbox (status, terminated_ms);
CREATE INDEX sandbox_live ON sandbox (org) WHERE status < 4;
CREATE INDEX sandbox_snapshot ON sandbox (snapshot) WHERE snapshot <> '';

CREATE TABLE snapshot (
	id           TEXT PRIMARY KEY,
	org          TEXT NOT NULL REFERENCES org (id),
	name         TEXT NOT NULL,
	status       INTEGER NOT NULL CHECK (status BETWEEN 0 AND 3), -- creating ready error pending_deletion
	quick        INTEGER NOT NULL CHECK (quick IN (0, 1)),
	source       TEXT NOT NULL,
	source_name  TEXT NOT NULL,
	image        TEXT NOT NULL,
	image_digest TEXT NOT NULL,
	cpu_units    INTEGER NOT NULL,
	memory_mib   INTEGER NOT NULL,
	storage_gb   INTEGER NOT NULL,
	size         INTEGER NOT NULL,
	created_ms   INTEGER NOT NULL,
	message      TEXT NOT NULL,
	network      TEXT, -- JSON
	metadata     TEXT, -- JSON
	env          BLOB -- sealed
) STRICT;
CREATE INDEX snapshot_org ON snapshot (org, created_ms);

CREATE TABLE exec (
	id            TEXT PRIMARY KEY,
	request       TEXT NOT NULL,
	org           TEXT NOT NULL REFERENCES org (id),
	sandbox       TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
	command       TEXT,
	cwd           TEXT,
	out           TEXT,
	err_out       TEXT,
	out_truncated INTEGER NOT NULL CHECK (out_truncated IN (0, 1)),
	err_truncated INTEGER NOT NULL CHECK (err_truncated IN (0, 1)),
	exit_code     INTEGER NOT NULL,
	status        TEXT NOT NULL,
	stream        INTEGER NOT NULL CHECK (stream IN (0, 1)),
	started_ms    INTEGER NOT NULL,
	duration_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX exec_org ON exec (org, started_ms);
CREATE INDEX exec_sandbox ON exec (sandbox, started_ms);
CREATE INDEX exec_started ON exec (started_ms);

CREATE TABLE sample (
	sandbox      TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
	when_ms      INTEGER NOT NULL,
	cpu_percent  REAL NOT NULL,
	memory_bytes INTEGER NOT NULL,
	PRIMARY KEY (sandbox, when_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX sample_when ON sample (when_ms);

CREATE TABLE idempotency (
	org        TEXT NOT NULL REFERENCES org (id),
	key        TEXT NOT NULL,
	body_hash  BLOB NOT NULL CHECK (length(body_hash) = 32),
	status     INTEGER NOT NULL, -- HTTP; 0 = under way
	answer     BLOB,             -- sealed: the answer to "create a key" holds the key
	target     TEXT NOT NULL,
	created_ms INTEGER NOT NULL,
	PRIMARY KEY (org, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_created ON idempotency (created_ms);

CREATE TABLE usage (
	org       TEXT NOT NULL REFERENCES org (id),
	day       TEXT NOT NULL, -- 2026-01-31, UTC
	sandbox_s REAL NOT NULL,
	vcpu_s    REAL NOT NULL,
	cpu_s     REAL NOT NULL,
	bytes_in  INTEGER NOT NULL,
	bytes_out INTEGER NOT NULL,
	execs     INTEGER NOT NULL,
	creates   INTEGER NOT NULL,
	PRIMARY KEY (org, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE bucket (
	key     TEXT PRIMARY KEY,
	tokens  REAL NOT NULL,
	when_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Append-only. hash: BLAKE2b keyed by the secret over the row and the hash before it.
CREATE TABLE audit (
	seq         INTEGER PRIMARY KEY,
	when_ms     INTEGER NOT NULL,
	request     TEXT NOT NULL,
	org         TEXT NOT NULL,
	key         TEXT NOT NULL,
	address     TEXT NOT NULL,
	action      TEXT NOT NULL,
	target      TEXT NOT NULL,
	outcome     TEXT NOT NULL,
	status      INTEGER NOT NULL,
	duration_us INTEGER NOT NULL,
	detail      TEXT NOT NULL,
	hash        TEXT NOT NULL
) STRICT;
CREATE INDEX audit_org ON audit (org, seq);
CREATE INDEX audit_target ON audit (target, seq);

-- One row: the newest row (so that a cut tail shows) and the checkpoint that pruning left; mac covers all of it.
CREATE TABLE audit_head (
	id        INTEGER PRIMARY KEY CHECK (id = 1),
	seq       INTEGER NOT NULL,
	hash      TEXT NOT NULL,
	base_seq  INTEGER NOT NULL,
	base_hash TEXT NOT NULL,
	mac       BLOB NOT NULL CHECK (length(mac) = 32)
) STRICT;

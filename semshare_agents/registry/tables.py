"""The registry's tables. A change here needs a new `SCHEMA_VERSION` and a revision in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 5

UNFINISHED = "unfinished"
"""`reuse_class` of a turn that has no answer yet, or that broke off before it had one."""

metadata = MetaData()

# SQLite gives automatic row ids to INTEGER keys only.
RowId = BigInteger().with_variant(Integer, "sqlite")

tenants = Table(
    "tenants",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
)

scopes = Table(
    "scopes",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("key_check", String(32)),
    UniqueConstraint("tenant_id", "fingerprint"),
)
"""`key_check` digests the key of the scope's names: whether they are this key's. NULL: from before there were keys."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    UniqueConstraint("tenant_id", "name"),
)

turns = Table(
    "turns",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("scope_id", ForeignKey("scopes.id"), nullable=False),
    Column("session_id", ForeignKey("sessions.id")),
    Column("created_at", Float, nullable=False),
    Column("reuse_class", String(16), nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("stored_tokens", Integer, nullable=False),
    Column("exact_tokens", Integer, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("ttft_seconds", Float, nullable=False),
    Column("predicted_cold_seconds", Float, nullable=False),
    Column("tokens", LargeBinary, nullable=False),
    Column("messages", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("report", Text, nullable=False),
    Index("turns_by_session", "session_id", "id"),
    Index("turns_by_scope", "scope_id", "id"),
    sqlite_autoincrement=True,
)
"""Ids are never used twice: a reused id could serve another turn's KV."""

blocks = Table(
    "blocks",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("scope_id", ForeignKey("scopes.id"), nullable=False),
    Column("key", String(32), nullable=False, unique=True),
    Column("turn_id", ForeignKey("turns.id"), nullable=False),
    Column("start", Integer, nullable=False),
    Column("length", Integer, nullable=False),
    Column("chain", String(32), nullable=False),
    Column("branch", String(32)),
    Column("content", BigInteger),
    Column("size_bytes", BigInteger, nullable=False),
    Column("holder", String(32)),
    Index("blocks_by_chain", "scope_id", "chain"),
    Index("blocks_by_branch", "scope_id", "branch", "id"),
    Index("blocks_by_content", "scope_id", "content"),
    Index("blocks_by_turn", "turn_id"),
    Index("blocks_by_holder", "holder"),
    sqlite_autoincrement=True,
)
"""`turn_id` is a turn that contains the block at `start`; `holder` names the process whose RAM alone has it, NULL
says that it is on disk. `branch` digests the chain name before the block and its first tokens."""

turn_blocks = Table(
    "turn_blocks",
    metadata,
    Column("turn_id", ForeignKey("turns.id"), primary_key=True),
    Column("start", Integer, primary_key=True),
    Column("length", Integer, nullable=False),
    Column("block_id", ForeignKey("blocks.id"), nullable=False),
    Index("turn_blocks_by_block", "block_id", "turn_id"),
    sqlite_with_rowid=False,
)

bands = Table(
    "bands",
    metadata,
    Column("scope_id", ForeignKey("scopes.id"), primary_key=True),
    Column("value", BigInteger, primary_key=True),
    Column("turn_id", ForeignKey("turns.id"), primary_key=True),
    Index("bands_by_turn", "turn_id"),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("at", Float, nullable=False),
    Column("turn_id", BigInteger),
    Column("kind", String(16), nullable=False),
    Column("donor_turn_id", BigInteger),
    Column("tokens", Integer, nullable=False),
    Column("detail", Text, nullable=False),
    Index("events_by_turn", "turn_id"),
)
"""`kind` is exact, moved, semantic, cold, miss, evict, demote, repair, narrow or widen."""

guard_samples = Table(
    "guard_samples",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("turn_id", BigInteger, nullable=False),
    Column("scope_id", ForeignKey("scopes.id"), nullable=False),
    Column("session_id", ForeignKey("sessions.id")),
    Column("reuse_class", String(16), nullable=False),
    Column("kl", Float, nullable=False),
    Column("agreement", Float, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Index("guard_samples_by_scope", "scope_id", "reuse_class", "id"),
    Index("guard_samples_by_session", "session_id", "reuse_class", "id"),
)
"""How far sampled turns drifted from cold runs of them, in nats over their first answer tokens."""

guard_limits = Table(
    "guard_limits",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("scope_id", ForeignKey("scopes.id"), nullable=False),
    Column("session_id", ForeignKey("sessions.id")),
    Column("reuse", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Float, nullable=False),
    Index("guard_limits_by_scope", "scope_id"),
)
"""The loosest reuse that the guard allows; without a session it is the whole tenant's. `semantic` limits nothing: the
row then says since when samples count again."""

forgets = Table(
    "forgets",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("at", Float, nullable=False),
    Column("tenant", String(32), nullable=False),
    Column("session", String(32)),
    Column("block_keys", Text, nullable=False),
    Column("erased", Integer, nullable=False),
    sqlite_autoincrement=True,
)
"""Acts of forgetting: keyed digests of the tenant and of the session (NULL: all of the tenant, turns without a session
have that of the empty name), block keys as JSON, and whether no trace is left in the database's files. Turns that began
before are not remembered; other processes learn from it what to drop from RAM."""

pins = Table(
    "pins",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("session_id", ForeignKey("sessions.id"), unique=True),
    Column("turn_id", ForeignKey("turns.id"), unique=True),
    Column("begins_at", Float, nullable=False),
    Column("ends_at", Float),
    Index("pins_by_tenant", "tenant_id"),
)
"""Sessions and turns whose blocks may not be evicted; `ends_at` is NULL for what is pinned until it is unpinned."""

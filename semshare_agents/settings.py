"""Every setting of the package; the only reader of the environment (prefix ``SEMSHARE_``)."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from semshare_agents.errors import ConfigurationError
from semshare_agents.values import AUTO, Fidelity, Reuse

GIB = 1024**3

AnySettings = TypeVar("AnySettings", bound=BaseSettings)
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _default_home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "semshare"


class Settings(BaseSettings):
    """Settings with their defaults; each can be given as ``SEMSHARE_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="SEMSHARE_", extra="forbid", frozen=True)

    model: str = Field("default", min_length=1, description="'default', a folder, a .gguf file or a hub id")
    home: Path = Field(
        default_factory=_default_home, description="models, database and KV files; default: ~/.cache/semshare"
    )
    database_url: str | None = Field(None, description="async SQLAlchemy URL; default: SQLite in `home`")
    database_timeout_seconds: float = Field(10.0, gt=0.0, description="how long a database server may take to answer")
    event_rows: int = Field(200_000, ge=1, description="rows kept of the log of events; the oldest go first")
    names_key: SecretStr | None = Field(
        None, description="keys all names; the same on all hosts of a database; default: names.key in `home`"
    )
    encryption_keys: SecretStr | None = Field(
        None,
        description="encrypts KV files, texts and token ids: keys of 64 hexadecimal digits, comma-separated; the first "
        "encrypts, the others only read; needs the extra `encryption`",
    )
    pools: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="tenants that reuse one another's KV, as JSON: name of the pool -> tenants"
    )
    store_dir: Path | None = Field(None, description="folder of the KV files; default: kv in `home`")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1', ...")
    dtype: str = Field("auto", pattern="^(auto|float32|bfloat16|float16)$", description="'auto': float32 on CPU")
    threads: int | None = Field(None, gt=0, description="torch's compute threads; default: torch's own choice")
    reorder_weights: bool = Field(
        True, description="on a CPU in float32 weights lie in oneDNN's order: passes of few rows are faster"
    )
    tenant: str = Field("default", min_length=1, max_length=200, description="tenant of calls that name none")

    device_bytes: int = Field(0, ge=0, description="KV budget on an accelerator; 0: no device tier")
    memory_bytes: int = Field(4 * GIB, ge=0, description="KV budget in RAM; 0: no memory tier")
    disk_bytes: int = Field(20 * GIB, ge=0, description="KV budget on disk; 0: KV does not outlive the process")
    kv_codec: str = Field("raw", description="how stored KV is packed: raw, int8 or k5v4")
    eviction: str = Field("lru", description="eviction policy: lru, lfu, fifo, slru, ttl, gdsf or session")
    device_eviction: str | None = Field(None, description="that of the device tier; default: `eviction`")
    memory_eviction: str | None = Field(None, description="that of the memory tier; default: `eviction`")
    disk_eviction: str | None = Field(None, description="that of the disk tier; default: `eviction`")
    ttl_seconds: float = Field(7 * 86400.0, gt=0.0, description="policy ttl: how long KV lives after its last use")
    tenant_bytes: int | None = Field(None, gt=0, description="KV of one tenant that a tier may hold; default: no quota")
    high_watermark: float = Field(0.98, gt=0.0, le=1.0, description="share of a budget above which room is made ahead")
    low_watermark: float = Field(0.95, gt=0.0, le=1.0, description="share of a budget down to which room is made ahead")
    block_tokens: int = Field(64, ge=8, le=1024, description="tokens of a block")

    reuse: Reuse = Field(Reuse.MOVED, description="loosest kind of reuse: off, exact, moved or semantic")
    fidelity: Fidelity = Field(
        AUTO, description="drift a turn may have: auto, strict, balanced, fast, or a mean KL in nats"
    )
    strategy: str = Field("question", description="how semantic rows to recompute are chosen")
    matching: str = Field("path", description="how reworded tokens are matched: path, nearest or position-free")
    semantic_share: Share = Field(0.03, description="share of semantically matched rows that is computed again")
    look_share: Share = Field(0.3, description="rows computed again, by attention, per token that moved text never saw")
    look_late: bool = Field(
        True, description="those rows are computed beside the answer's first tokens, not before; not with `retention`"
    )
    similarity_threshold: Share = Field(0.55, description="least donor similarity for semantic reuse")
    fact_guard: str = Field(
        "auto",
        pattern="^(auto|strict|balanced|fast)$",
        description="how much is computed where facts may differ; auto: as the fidelity asks",
    )
    head_tokens: int = Field(32, ge=0, description="rows computed again at the head of each moved span")
    tail_tokens: int = Field(8, ge=1, description="rows always computed at the end of a prompt")
    retention: str = Field(
        "off",
        pattern="^(off|recent|constant|growing|decay|attention)$",
        description="what an answer is decoded on: off keeps all of the prompt's KV",
    )
    retention_share: float = Field(0.58, gt=0.0, le=1.0, description="share of the prompt's KV that retention keeps")
    retention_int8: bool = Field(False, description="hold what retention keeps in 8 bits")
    repair_slowdown: float = Field(0.1, ge=0.0, description="share of a decoding step's time spent on repair")
    repair_slowdown_semantic: float = Field(2.0, ge=0.0, description="the same for turns with semantic reuse")
    repair_rows: int | None = Field(None, ge=0, description="rows repaired with each step; default: by the slowdown")
    repair_idle: bool = Field(True, description="compute approximate turns exactly while nobody waits for the model")
    drafts: bool = Field(
        True,
        description="draft what answers may go on with from the conversation and the tenant's past turns; the answers "
        "stay the same",
    )
    measure_idle: bool = Field(
        True,
        description="measure speeds again in idle time where a busy machine or turns put them in question",
    )
    guard_share: Share = Field(0.0, description="share of approximate turns measured against a cold run; 0: no guard")
    guard_kl: float = Field(0.05, gt=0.0, description="budget: mean KL of a window of samples, in nats")
    guard_window: int = Field(8, ge=1, description="samples of one kind of reuse whose mean is held to the budget")
    guard_probe_turns: int = Field(8, ge=1, description="of so many narrowed turns the last is let through as a probe")
    guard_seed: int | None = Field(None, description="seed of the guard's draws; default: a new one each time")
    step_seconds: float = Field(
        0.25, gt=0.0, description="while answers run, no pass over other prompts is predicted to take longer"
    )
    min_gain: float = Field(1.1, ge=1.0, description="predicted cold time over reuse time below which a turn is cold")
    control_tokens: str = Field(
        "text",
        pattern="^(text|tokens)$",
        description="what names of control tokens in messages become: text, or tokens as the chat template's do",
    )
    max_new_tokens: int = Field(512, gt=0, description="longest answer of calls that do not say")
    tracing: bool = Field(False, description="an OpenTelemetry span for each turn; needs the extra `otel`")
    log_text: bool = Field(False, description="log the text of prompts and answers too")

    @field_validator("reuse", mode="before")
    @classmethod
    def _reuse_word(cls, value: object) -> Reuse:
        return Reuse.parse(value)

    @field_validator("fidelity", mode="before")
    @classmethod
    def _fidelity_word(cls, value: object) -> Fidelity:
        return Fidelity.parse(value)

    @model_validator(mode="after")
    def _some_tier(self) -> Self:
        if not (self.device_bytes or self.memory_bytes or self.disk_bytes):
            raise ValueError("all KV budgets are 0: give device_bytes, memory_bytes or disk_bytes a positive value")
        return self

    @model_validator(mode="after")
    def _one_pool(self) -> Self:
        members = [tenant for tenants in self.pools.values() for tenant in tenants]
        twice = sorted({tenant for tenant in members if members.count(tenant) > 1})
        if twice or not all(self.pools):
            raise ValueError(f"a tenant may be in one pool, named and once: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _watermarks_agree(self) -> Self:
        if self.low_watermark > self.high_watermark:
            raise ValueError(
                f"low_watermark {self.low_watermark:g} is above high_watermark {self.high_watermark:g}: "
                "eviction starts above the high one and ends at the low one"
            )
        return self

    @property
    def evictions(self) -> dict[str, str]:
        """The eviction policy of each tier."""
        given = {"device": self.device_eviction, "memory": self.memory_eviction, "disk": self.disk_eviction}
        return {tier: name or self.eviction for tier, name in given.items()}

    @property
    def registry_url(self) -> str:
        """The database URL, with the default filled in."""
        return self.database_url or f"sqlite+aiosqlite:///{self.home / 'registry.db'}"

    @property
    def kv_dir(self) -> Path:
        """The folder of the KV files, with the default filled in."""
        return self.store_dir or self.home / "kv"


class ServerSettings(BaseSettings):
    """Settings of `semshare serve`; each can be given as ``SEMSHARE_SERVER_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="SEMSHARE_SERVER_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; any but loopback needs keys")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: a free one")
    keys_file: Path | None = Field(None, description="file of hashed API keys; `semshare keys add` writes it")
    keys: SecretStr | None = Field(None, description="API keys as tenant=key, separated by commas")
    running: int = Field(8, ge=1, description="requests that are worked on at once")
    queue: int = Field(64, ge=0, description="requests that may wait; more get status 429")
    body_bytes: int = Field(4 * 1024**2, ge=1024, description="largest request body")
    ping_seconds: int = Field(15, ge=1, description="a comment is streamed after so much silence")
    shutdown_seconds: int = Field(30, ge=1, description="how long answers under way may take when the server ends")
    log_format: str = Field("plain", pattern="^(plain|json)$", description="plain or json, one object a line")
    page: bool = Field(True, description="whether there is a page at /")
    strict: bool = Field(False, description="refuse fields that are not known, and names of other models")
    sampling: str = Field(
        "model",
        pattern="^(model|greedy)$",
        description="how tokens are drawn where a call does not say: as the model's generation_config.json advises, or "
        "greedily",
    )
    aliases: str = Field("", description="other names of the model, separated by commas")
    hosts: str = Field(
        "",
        description="further host names by which a server without keys may be asked, separated by commas; *: any",
    )
    cors_origins: str = Field(
        "local",
        description="origins whose pages may call, separated by commas; local: those of this machine, *: all",
    )

    @property
    def model_names(self) -> tuple[str, ...]:
        """Other names of the model."""
        return _parted(self.aliases)

    @property
    def host_names(self) -> tuple[str, ...]:
        """Further host names."""
        return _parted(self.hosts)

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins whose pages may call."""
        return tuple(origin.rstrip("/") for origin in _parted(self.cors_origins))


def _parted(value: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in value.split(","))))


def load_server_settings(**overrides: Any) -> ServerSettings:
    """Server settings from the environment, with `overrides` on top.

    Raises:
        ConfigurationError: a value is not allowed or a name is unknown.
    """
    return _loaded(ServerSettings, overrides)


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with `overrides` on top.

    Raises:
        ConfigurationError: a value is not allowed or a name is unknown.
    """
    return _loaded(Settings, overrides)


def unknown_variables() -> dict[str, str]:
    """Variables of the environment that look like settings and are none, each with the nearest one; empty for none."""
    fields = [f"SEMSHARE_{name}".upper() for name in Settings.model_fields]
    fields += [f"SEMSHARE_SERVER_{name}".upper() for name in ServerSettings.model_fields]
    unknown = sorted(name for name in os.environ if name.upper().startswith("SEMSHARE_") and name.upper() not in fields)
    return {name: next(iter(get_close_matches(name.upper(), fields, n=1)), "") for name in unknown}


def _loaded(kind: type[AnySettings], overrides: dict[str, Any]) -> AnySettings:
    try:
        return kind(**{k: v for k, v in overrides.items() if v is not None})
    except ValidationError as e:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'settings'}: {p['msg']}" for p in e.errors())
        raise ConfigurationError(f"invalid settings: {problems}") from e

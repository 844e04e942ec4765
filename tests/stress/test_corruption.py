"""Damage of every kind to files and rows: a counted miss, a typed error or harmless; never another KV than stored."""

from __future__ import annotations

import copy
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from semshare_agents.errors import SemShareError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel, prepare
from semshare_agents.model.run import RowRun
from semshare_agents.request.request import Request
from semshare_agents.reuse.kinds import effective_kinds
from semshare_agents.security.encryption import MAGIC
from semshare_agents.values import FAST, Ints, Kind, Reuse, Sampling
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import assistant, system, user

TEXTS = [tiny.words(24, seed) for seed in range(4)]
FIRST = [system("be brief"), user(TEXTS[0])]
OTHERS = [system("be brief"), user(TEXTS[2])]
MOVED = [system("answer at some length"), user(TEXTS[2])]
ASKED = {
    "exact": FIRST,
    "moved": [system("say all"), user(TEXTS[0])],
    "approximate": [*MOVED, assistant("yes"), user("go on")],
    "other": [user(TEXTS[1])],
}


@dataclass(frozen=True)
class Seen:
    """A prompt's KV `(layers, 2, kv_heads, tokens, head_dim)`, where it came from and its last logits."""

    kv: torch.Tensor
    kinds: Ints
    logits: torch.Tensor
    misses: int


async def look(llm: SemShareLLM, name: str, reuse: Reuse, tenant: str = "a") -> Seen:
    prefilled = await llm.pipeline.prefill(
        Request(ASKED[name], tenant, reuse, Sampling(max_new_tokens=1), fidelity=FAST)
    )
    assert isinstance(prefilled.run, RowRun)
    kv = prefilled.run.buffer[:, :, :, : len(prefilled.prompt)].clone()
    kinds = effective_kinds(prefilled.alignment, prefilled.plan) * (not prefilled.plan.cold)
    prefilled.run.close()
    return Seen(kv, kinds, prefilled.logits.clone(), prefilled.report.misses)


class Memory:
    """A filled memory on disk, put back as it was after each damage."""

    def __init__(self, llm: SemShareLLM, siblings: list[bytes]):
        self.llm, self.siblings = llm, siblings
        self.database = llm.settings.home / "registry.db"
        self.files = {p: p.read_bytes() for p in sorted(llm.settings.kv_dir.glob("*/*.safetensors"))}
        self.kept = sqlite3.connect(":memory:")
        with sqlite3.connect(self.database) as live:
            live.backup(self.kept)
        live.close()
        self.mine = self._files_of("a")
        self.theirs = self._files_of("b")

    def _files_of(self, tenant: str) -> list[Path]:
        query = """SELECT key FROM blocks JOIN scopes ON scopes.id = scope_id JOIN tenants ON tenants.id = tenant_id
                   WHERE tenants.name = ? AND holder IS NULL ORDER BY blocks.id"""
        keys = {row[0] for row in self.kept.execute(query, [tenant])}
        return [p for p in self.files if p.stem in keys]

    def restore(self) -> None:
        for path, content in self.files.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)
        with sqlite3.connect(self.database) as live:
            self.kept.backup(live)
        live.close()

    def change(self, statement: str, *values: Any) -> int:
        with sqlite3.connect(self.database) as live:
            live.execute("PRAGMA foreign_keys=OFF")
            changed = live.execute(statement, values).rowcount
        live.close()
        return changed


def flip(memory: Memory, rng: random.Random) -> str:
    path = rng.choice(memory.mine)
    content = bytearray(memory.files[path])
    # An encrypted file begins with a word and the names of key and nonce.
    header = 28 if content.startswith(MAGIC) else 8 + int.from_bytes(content[:8], "little")
    region = rng.choice(["length", "header", "data", "tail"])
    low, high = {
        "length": (0, 8),
        "header": (8, header),
        "data": (header, len(content)),
        "tail": (len(content) - 16, len(content)),
    }[region]
    for _ in range(rng.choice([1, 1, 1, 4])):
        content[rng.randrange(low, high)] ^= rng.choice([1 << rng.randrange(8), rng.randrange(1, 256)])
    path.write_bytes(content)
    return f"flip {region}"


def resize(memory: Memory, rng: random.Random) -> str:
    path = rng.choice(memory.mine)
    content = memory.files[path]
    kind = rng.choice(["truncate", "extend", "zero", "empty", "gone"])
    changed = {
        "truncate": content[: rng.randrange(1, len(content))],
        "extend": content + rng.randbytes(rng.randrange(1, 200)),
        "zero": bytes(len(content)),
        "empty": b"",
        "gone": b"",
    }[kind]
    path.write_bytes(changed)
    if kind == "gone":
        path.unlink()
    return kind


def swap(memory: Memory, rng: random.Random) -> str:
    kind = rng.choice(["turn", "tenant", "model"])
    path = rng.choice(memory.mine)
    others = {
        "turn": [memory.files[p] for p in memory.mine if p != path],
        "tenant": [memory.files[p] for p in memory.theirs],
        "model": memory.siblings,
    }[kind]
    path.write_bytes(rng.choice(others))
    return f"swap {kind}"


def row(memory: Memory, rng: random.Random) -> str:
    statements = (
        ("turns", "exact_tokens = exact_tokens + ?", lambda: rng.choice([-40, -3, 5, 60, 1000])),
        ("turns", "scope_id = scope_id % 2 + ?", lambda: 1),
        ("turns", "depth = ?", lambda: rng.randrange(9)),
        ("turns", "stored_tokens = ?", lambda: rng.randrange(999)),
        ("turn_blocks", "start = start + ?", lambda: rng.choice([1, 5, 16, 32, -16, 10**6])),
        ("turn_blocks", "length = length + ?", lambda: rng.choice([-5, 1, 16, 100, 10**6])),
        ("turn_blocks", "block_id = ?", lambda: rng.randrange(1, 30)),
        ("blocks", "key = ?", lambda: rng.choice([rng.randbytes(16).hex(), "", "../../etc/passwd"])),
        ("blocks", "length = length + ?", lambda: rng.choice([-3, 1, 16])),
        ("blocks", "start = start + ?", lambda: rng.choice([1, 16, -16])),
        ("blocks", "chain = (SELECT chain FROM blocks WHERE id = ?)", lambda: rng.randrange(1, 30)),
        ("blocks", "branch = (SELECT branch FROM blocks WHERE id = ?)", lambda: rng.randrange(1, 30)),
        ("blocks", "content = (SELECT content FROM blocks WHERE id = ?)", lambda: rng.randrange(1, 30)),
        ("blocks", "turn_id = ?", lambda: rng.randrange(1, 6)),
        ("blocks", "scope_id = scope_id % 2 + ?", lambda: 1),
        ("blocks", "holder = ?", lambda: "f" * 32),
        ("blocks", "size_bytes = ?", lambda: rng.randrange(10**6)),
        ("scopes", "fingerprint = ?", lambda: rng.randbytes(32).hex()),
        ("scopes", "tenant_id = tenant_id % 2 + ?", lambda: 1),
        ("tenants", "name = name || ?", lambda: "x"),
    )
    table, change, value = rng.choice(statements)
    where = "" if rng.random() < 0.3 else f" WHERE rowid_of = {rng.randrange(1, 30)}"
    identity = "block_id" if table == "turn_blocks" else "id"
    where = where.replace("rowid_of", identity)
    memory.change(f"UPDATE OR IGNORE {table} SET {change}{where}", value())
    return f"{table}.{change.split()[0]}"


def tokens(memory: Memory, rng: random.Random) -> str:
    rows = memory.kept.execute("SELECT id, tokens FROM turns").fetchall()
    turn_id, stored = rng.choice(rows)
    changed = bytearray(stored)
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        del changed[rng.randrange(len(changed)) :]
    memory.change("UPDATE turns SET tokens = ? WHERE id = ?", bytes(changed), turn_id)
    return "turns.tokens"


def lying_tokens(memory: Memory, rng: random.Random) -> str:
    """Another turn's KV is said to be of the tokens that will be asked for."""
    wanted = memory.kept.execute("SELECT tokens FROM turns WHERE id = 1").fetchone()[0]
    memory.change("UPDATE turns SET tokens = ?, exact_tokens = ? WHERE id > 1", wanted, len(wanted) // 4)
    for old in memory.kept.execute("SELECT start, chain, branch, content FROM blocks WHERE turn_id = 1").fetchall():
        start, chain, branch, content = old
        change = "UPDATE blocks SET chain = ?, branch = ?, content = ? WHERE start = ? AND turn_id > 1"
        memory.change(change, chain, branch, content, start)
    if rng.random() < 0.5:
        memory.change("DELETE FROM turn_blocks WHERE turn_id = 1")
    return "lying tokens"


THOROUGH = 1000
"""From so many on encrypted files are damaged as often as plain ones."""
Damage = Callable[[Memory, random.Random], str]
DAMAGES: tuple[Damage, ...] = (flip, flip, resize, swap, row, row, tokens, lying_tokens)


async def filled(open_llm: OpenLLM, keys: str | None) -> Memory:
    sibling = await open_llm(tiny.loaded("llama", seed=8), memory_bytes=0, encryption_keys=keys)
    await sibling.generate(FIRST, tenant="a")
    await sibling.aclose()
    theirs = [p.read_bytes() for p in sibling.settings.kv_dir.glob("*/*.safetensors")]
    llm = await open_llm(memory_bytes=0, home=sibling.settings.home.parent / "damaged", encryption_keys=keys)
    await llm.generate(FIRST, tenant="a")
    await llm.generate(OTHERS, tenant="a")
    await llm.generate(ASKED["other"], tenant="b")
    approximate = await llm.generate(MOVED, tenant="a")
    assert approximate.report.reuse_class == "moved"
    await llm.generate([user(TEXTS[3]), assistant("no"), user(TEXTS[1])], tenant="a")
    await llm.flush()
    return Memory(llm, theirs)


@pytest.mark.parametrize("keys", [None, "0123456789abcdef" * 4], ids=["plain", "encrypted"])
async def test_no_damage_is_ever_served(open_llm: OpenLLM, keys: str | None, pytestconfig: pytest.Config) -> None:
    memory = await filled(open_llm, keys)
    llm = memory.llm
    cold = {name: await look(llm, name, Reuse.OFF) for name in ASKED}
    load = llm.pipeline.memory.tiers.load
    read: set[str] = set()
    llm.pipeline.memory.tiers.load = lambda infos, *owner: (read.update(i.key for i in infos), load(infos, *owner))[1]  # type: ignore[method-assign]
    whole = {name: await look(llm, name, Reuse.MOVED) for name in ASKED}
    llm.pipeline.memory.tiers.load = load  # type: ignore[method-assign]
    memory.mine = [path for path in memory.mine if path.stem in read]
    assert len(memory.mine) > 15, len(memory.mine)
    assert Kind.EXACT in whole["exact"].kinds
    assert Kind.MOVED in whole["moved"].kinds
    assert Kind.MOVED in whole["other"].kinds
    outcomes: Counter[str] = Counter()
    by_damage: Counter[str] = Counter()
    count = pytestconfig.getoption("--corruptions")
    for seed in range(count if keys is None or count >= THOROUGH else count // 4):
        rng = random.Random(seed)
        damage = DAMAGES[seed % len(DAMAGES)]
        what = damage(memory, rng)
        by_damage[what] += 1
        outcome = "harmless"
        for name in ASKED:
            try:
                seen = await look(llm, name, Reuse.MOVED)
            except SemShareError as e:
                outcome = type(e).__name__
                continue
            exact, moved = seen.kinds == Kind.EXACT, seen.kinds == Kind.MOVED
            said = f"seed {seed}: {what}, prompt {name}"
            assert torch.allclose(seen.kv[:, :, :, exact], cold[name].kv[:, :, :, exact], atol=2e-3), said
            # The approximate turn's text has two donors; what it takes as exact is what counts there.
            both = (name != "approximate") & moved & (whole[name].kinds == Kind.MOVED)
            assert torch.equal(seen.kv[:, :, :, both], whole[name].kv[:, :, :, both]), said
            if not moved.any():
                assert torch.allclose(seen.logits, cold[name].logits, atol=2e-3), said
            fewer = int((seen.kinds != 0).sum()) < int((whole[name].kinds != 0).sum())
            outcome = "miss" if seen.misses or fewer or outcome == "miss" else outcome
        if damage in (resize, swap) and what != "extend":
            assert outcome == "miss", f"seed {seed}: {what}"
        if what in ("flip data", "flip tail") or (keys is not None and damage is flip):
            assert outcome == "miss", f"seed {seed}: {what}"
        # Another tenant never gets any of it.
        assert not (await look(llm, "exact", Reuse.MOVED, tenant="b")).kinds.any(), f"seed {seed}: {what}"
        outcomes[outcome] += 1
        memory.restore()
    print(dict(outcomes), dict(by_damage))
    healed = await look(llm, "exact", Reuse.MOVED)
    assert torch.equal(healed.kv, whole["exact"].kv)
    memory.kept.close()


def other_template() -> LoadedModel:
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = tiny.TEMPLATE.replace("assistant\n{% endif", "assistant \n{% endif")
    return prepare(tiny.build("llama"), tokenizer, "tiny-llama")


def other_rope() -> LoadedModel:
    model = tiny.build("llama")
    changed = type(model)(tiny._llama(rope_parameters=tiny._rope("default") | {"rope_theta": 20_000.0}))
    changed.load_state_dict(model.state_dict())
    return prepare(changed.eval(), tiny.tokenizer(), "tiny-llama")


SIBLINGS: dict[str, Callable[[], LoadedModel]] = {
    "weights": lambda: tiny.loaded("llama", seed=8),
    "dtype": lambda: tiny.loaded("llama", torch.bfloat16),
    "template": other_template,
    "rope": other_rope,
}


@pytest.mark.parametrize("kind", SIBLINGS)
async def test_a_sibling_model_never_hits(open_llm: OpenLLM, kind: str) -> None:
    first = await open_llm()
    await first.generate(FIRST)
    await first.aclose()
    sibling = await open_llm(SIBLINGS[kind]())
    for messages in (FIRST, MOVED):
        found = await sibling.generate(messages, reuse="semantic", store=False)
        assert (found.report.reuse_class, found.report.misses) == ("cold", 0)

"""The conformance classes find what is wrong: each of these has one fault, and each fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WRONG = """
from dataclasses import replace

import numpy as np
import pytest
import torch

from semshare_agents.match.matchers import along_path, position_free
from semshare_agents.reuse.strategies import Choice, Static
from semshare_agents.kv.packing import Int8, Packed, Raw
from semshare_agents.testing import (
    MatcherConformance, PackingConformance, StrategyConformance, ToolFormatConformance,
)
from semshare_agents.tools.hermes import Hermes

# --- packings


class OtherType(Raw):
    def unpack(self, packed):
        return super().unpack(packed).float()


class Reused(Raw):
    def unpack(self, packed):
        return super().unpack(packed).add_(0.25)


class PowersOfTwo(Raw):
    def pack(self, kv):
        if kv.shape[-1] & (kv.shape[-1] - 1):
            raise ValueError("no")
        return super().pack(kv)


class Lossy(Int8):
    lossless = True


class Silent(Raw):
    def pack(self, kv):
        return super().pack(torch.nan_to_num(kv))


class Chance(Raw):
    def pack(self, kv):
        return super().pack(kv + torch.rand(1) * 1e-3)


class Transposed(Raw):
    def unpack(self, packed):
        return super().unpack(packed).transpose(2, 3)


# --- strategies


class Indices(Static):
    def choose(self, candidates, share, layers):
        return Choice(np.arange(round(share * len(candidates))))


class Unsorted(Static):
    def choose(self, candidates, share, layers):
        return Choice(super().choose(candidates, share, layers).rows[::-1])


class Greedy(Static):
    def choose(self, candidates, share, layers):
        return super().choose(candidates, min(1.0, 2 * share), layers)


class Remembers(Static):
    turns = 0

    def choose(self, candidates, share, layers):
        self.turns += 1
        return super().choose(candidates, share if self.turns % 2 else share / 2, layers)


class InPlace(Static):
    def choose(self, candidates, share, layers):
        candidates.distance.sort()
        return super().choose(candidates, share, layers)


class Growing(Static):
    def choose(self, candidates, share, layers):
        return Choice(candidates.rows, 0, (1.0, *np.linspace(0, share, layers - 1)))


class NeedsDistance(Static):
    def choose(self, candidates, share, layers):
        worst = np.argsort(-candidates.distance, kind="stable")[: round(share * len(candidates))]
        return Choice(np.sort(candidates.rows[worst[candidates.distance[worst] > 0]]))


# --- matchers


def beyond(codes, part, start, reference, anchors):
    source, distance = along_path(codes, part, start, reference, anchors)
    return source + 1, distance


def doubles(codes, part, start, reference, anchors):
    source, distance = along_path(codes, part, start, reference, anchors)
    return source, distance.astype(np.float64)


def nothing_found(codes, part, start, reference, anchors):
    source, distance = along_path(codes, part, start, reference, anchors)
    return np.where(distance > 0, -1, source), distance


def at_random(codes, part, start, reference, anchors):
    source = np.random.default_rng(0).integers(0, len(reference), len(part))
    return along_path(codes, part, start, reference[source], anchors)


def drops(codes, part, start, reference, anchors):
    anchors[:] = 0
    return position_free(codes, part, start, reference, anchors)


# --- formats



class Escapes(Hermes):
    def written(self, calls):
        return super().written([replace(c, arguments=c.arguments.replace('"', "'")) for c in calls])


class NoName(Hermes):
    def before(self, name):
        return '{"name": "x", "arguments": '


class Everything(Hermes):
    @classmethod
    def fits(cls, template):
        return True


class HoldsBack(Hermes):
    trigger = ""
    only_at_start = False


KINDS = {
    PackingConformance: ("packing", [OtherType, Reused, PowersOfTwo, Lossy, Silent, Chance, Transposed]),
    StrategyConformance: (
        "strategy", [Indices, Unsorted, Greedy, Remembers, InPlace, Growing, NeedsDistance],
    ),
    MatcherConformance: ("matcher", [beyond, doubles, nothing_found, at_random, drops]),
    ToolFormatConformance: ("form", [Escapes, NoName, Everything, HoldsBack]),
}


def made(base, fixture, wrong):
    def given(self):
        return wrong if fixture == "matcher" else wrong()

    body = {fixture: pytest.fixture(given)}
    if fixture == "form":
        body["template"] = pytest.fixture(lambda self: "<tool_call>")
    return type(f"Test{wrong.__name__}", (base,), body)


for base, (fixture, wrong_ones) in KINDS.items():
    for wrong in wrong_ones:
        globals()[f"Test{wrong.__name__}"] = made(base, fixture, wrong)
"""


def test_each_fails(tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "pytest", "-q", "-rfp", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path / "test_wrong.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    found = {
        outcome: set(re.findall(rf"^{outcome} \S*::Test(\w+)::", done.stdout, re.MULTILINE))
        for outcome in ("FAILED", "PASSED", "ERROR")
    }
    expected = set(re.findall(r"^(?:class|def) (\w+)(?:\(\w+\)|\(codes, .*):$", WRONG, re.MULTILINE))
    assert not found["ERROR"], done.stdout[-2000:]
    assert found["FAILED"] == expected, (expected - found["FAILED"], done.stdout[-2000:])
    # A fault of their own, not a broken set-up, is what fails; every test of a matcher checks its whole result.
    matchers = set(re.findall(r"^def (\w+)\(codes", WRONG, re.MULTILINE))
    assert found["PASSED"] >= expected - matchers

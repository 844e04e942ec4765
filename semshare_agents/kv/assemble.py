"""Load and move: lay donors' blocks into a prompt's buffer and rotate the keys to their new positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from semshare_agents.kv.block import BlockInfo
from semshare_agents.kv.content import Content, describe
from semshare_agents.kv.layout import KV, gather, keys_of, put, scatter, take
from semshare_agents.kv.rotary import KeyMover
from semshare_agents.values import Alignment, BlockRef, Ints, Kind, Scope


@dataclass(frozen=True)
class Fill:
    """Positions that one block fills.

    Attributes:
        block: The block.
        target: Prompt positions, shape `(tokens,)`.
        inside: Positions within the block, shape `(tokens,)`.
    """

    block: BlockRef
    target: Ints
    inside: Ints


def fills(alignment: Alignment, positions: Ints) -> list[Fill]:
    """Group prompt positions by the stored block that serves them."""
    out: list[Fill] = []
    for index, donor in enumerate(alignment.donors):
        mine = positions[alignment.donor[positions] == index]
        if not len(mine):
            continue
        starts = np.asarray([b.start for b in donor.blocks])
        which = np.searchsorted(starts, alignment.source[mine], side="right") - 1
        order = np.argsort(which, kind="stable")
        edges = np.flatnonzero(np.diff(which[order])) + 1
        for group in np.split(order, edges):
            block = donor.blocks[int(which[group[0]])]
            target = mine[group]
            out.append(Fill(block, target, alignment.source[target] - block.start))
    return out


def infos(parts: list[Fill], scope: Scope, alignment: Alignment) -> list[BlockInfo]:
    """The distinct blocks that fills need, with what each fill takes its block for."""
    claims: dict[str, tuple[Content, ...]] = {}
    for index, donor in enumerate(alignment.donors):
        mine = sorted((f for f in parts if alignment.donor[f.target[0]] == index), key=lambda f: f.block.start)
        # A position past its block's end makes the claim longer than the block, and so a mismatch.
        spans = [(f.block.start, max(f.block.length, int(f.inside.max()) + 1)) for f in mine]
        for fill, content in zip(mine, describe(scope, donor.tokens, spans, len(donor.tokens)), strict=True):
            taken = fill.inside[alignment.kind[fill.target] == Kind.EXACT]
            content = replace(content, exact=int(taken.max()) + 1 if len(taken) else 0)
            claims[fill.block.key] = (*claims.get(fill.block.key, ()), content)
    tokens = {f.block.key: f.block.stored_tokens for f in parts}
    return [BlockInfo(key, scope.fingerprint, tokens[key], of) for key, of in claims.items()]


def assemble(
    buffer: KV,
    parts: list[Fill],
    blocks: Mapping[str, KV],
    alignment: Alignment,
    mover: KeyMover | None,
) -> None:
    """Copy blocks into a buffer and rotate the keys whose position changed.

    Args:
        buffer: Where the prompt's KV goes.
        parts: Which positions come from which block.
        blocks: KV by key.
        alignment: Where each position comes from.
        mover: Moves keys; None leaves them as they are.
    """
    if not parts:
        return
    everything = np.concatenate([f.target for f in parts])
    sources = alignment.source[everything]
    rotation = None if mover is None else mover.rotation(sources, everything)
    done = 0
    for part in parts:
        here = slice(done, done + len(part.target))
        done += len(part.target)
        kv = blocks[part.block.key]
        moves = rotation is not None and bool((sources[here] != everything[here]).any())
        if _consecutive(part.target) and _consecutive(part.inside):
            a, s, n = int(part.target[0]), int(part.inside[0]), len(part.target)
            placed = put(buffer, a, take(kv, s, s + n))
            if moves and rotation is not None:
                rotation.apply(keys_of(placed), here)
            continue
        gathered = gather(kv, torch.as_tensor(part.inside, device=kv.device)).to(buffer.device)
        if moves and rotation is not None:
            rotation.apply(keys_of(gathered), here)
        scatter(buffer, torch.as_tensor(part.target, device=buffer.device), gathered)


def _consecutive(positions: Ints) -> bool:
    return bool(positions[-1] - positions[0] + 1 == len(positions)) and bool((np.diff(positions) == 1).all())

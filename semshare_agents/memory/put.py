"""Copy a turn's new blocks out of its buffer into a tier."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from semshare_agents.errors import StoreError
from semshare_agents.kv.content import Content, describe
from semshare_agents.kv.layout import take
from semshare_agents.kv.packing import Packing
from semshare_agents.memory.blocks import fresh
from semshare_agents.model.run import RowRun
from semshare_agents.registry import NewBlock
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.loaded import Owner
from semshare_agents.store.tiers import Tiers
from semshare_agents.values import Scope

log = logging.getLogger(__name__)


def put_blocks(
    tiers: Tiers,
    packing: Packing,
    scope: Scope,
    run: RowRun,
    blocks: Sequence[NewBlock],
    owner: Owner,
    stopped: Callable[[], bool],
) -> list[NewBlock]:
    """Copy blocks into the fastest tier with room; deepest first, so that heads count as used last.

    Args:
        tiers: Where they go.
        packing: How they are packed.
        scope: Tenant and model.
        run: Has their KV.
        blocks: What to keep; those that are known already stay as they are.
        owner: Whose they are.
        stopped: Whether nobody wants them any more.

    Returns:
        The blocks that are kept.

    Raises:
        StoreError: nobody wants them any more. After this or any other error none is kept.
    """
    kept: list[NewBlock] = []
    contents = describe(scope, run.tokens, [(b.start, b.length) for b in blocks], run.exact)
    try:
        for block, content in zip(reversed(blocks), reversed(contents), strict=True):
            if stopped():
                raise StoreError("the turn was given up while it was stored")
            found = _put(tiers, packing, scope, run, block, content, owner)
            kept += [] if found is None else [found]
    except BaseException:
        tiers.forget(fresh(kept))
        raise
    return kept[::-1]


def _put(
    tiers: Tiers, packing: Packing, scope: Scope, run: RowRun, block: NewBlock, content: Content, owner: Owner
) -> NewBlock | None:
    """A block as it is kept; None where no tier has room or can be written."""
    if block.known:
        tiers.touch([block.key], owner)
        return block
    kv = packing.pack(take(run.buffer, block.start, block.start + block.length))
    kv = replace(kv, content=content.text())
    block = replace(block, size_bytes=kv.nbytes)
    info = BlockInfo(block.key, scope.fingerprint, block.length)
    try:
        if tiers.keep_fast(info, kv, block.start, owner, until_written=True):
            return block
        if tiers.keep_durable(info, kv, block.start, owner):
            return replace(block, durable=True)
    except StoreError as e:
        log.warning("a block is not kept: %s", e)
    return None

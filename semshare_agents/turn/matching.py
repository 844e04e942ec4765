"""Find donors and align a prompt to them: exact, then moved, then semantic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from semshare_agents.concurrency import threads
from semshare_agents.match.align import align, align_semantic, unmatched_regions, why_unlike
from semshare_agents.match.facts import facts_checked
from semshare_agents.match.find import find, find_similar
from semshare_agents.match.question import asked
from semshare_agents.memory import Memory
from semshare_agents.model.tokenise import question_tokens
from semshare_agents.request.request import Request
from semshare_agents.timing.clock import Clock
from semshare_agents.turn.planner import Planner
from semshare_agents.values import Alignment, Donor, Ints, Kind, Reuse, Scope


async def matched(
    memory: Memory, planner: Planner, scope: Scope, request: Request, prompt: Ints, clock: Clock
) -> Alignment:
    """Where each token's KV could come from.

    Args:
        memory: Where to look.
        planner: How reworded text is matched and facts are protected.
        scope: Tenant and model.
        request: What is asked for.
        prompt: Token ids, shape `(tokens,)`.
        clock: Of the call.

    Raises:
        RegistryError: the database cannot be used.
    """
    reuse, spec, lexicon = request.reuse, memory.spec, planner.lexicon
    if spec.model.support.mover is None and reuse.allows(Reuse.MOVED):
        reuse = Reuse.EXACT
    with clock.stage("find"):
        found = await find(memory.registry, scope, prompt, spec.block_tokens, reuse, planner.least_tokens)
    with clock.stage("align"):
        alignment = await threads.work(align, prompt, found, planner.least_tokens)
        question = await threads.work(question_tokens, spec.model.tokenizer, [dict(m) for m in request.messages])
    if reuse.allows(Reuse.SEMANTIC):
        alignment = await _reworded(memory, planner, scope, prompt, alignment, question, clock)
    check = planner.fact_check(request.fidelity)
    if check is not None:
        with clock.stage("guard"):
            alignment = await threads.work(facts_checked, prompt, alignment, question, lexicon.texts, check)
    return alignment


async def _reworded(
    memory: Memory, planner: Planner, scope: Scope, prompt: Ints, alignment: Alignment, question: int, clock: Clock
) -> Alignment:
    """Match what is unmatched to the donor that says it most alike."""
    regions, threshold = unmatched_regions(alignment, question), planner.similarity_threshold
    similar: Sequence[Donor] = []
    lexicon = planner.lexicon
    if regions:
        with clock.stage("find"):
            free = np.concatenate([prompt[a:b] for a, b in regions])
            signer = await threads.work(lexicon.signer, scope)
            similar = await find_similar(memory.registry, scope, signer, free)
        with clock.stage("align"):
            codes = await threads.work(lambda: lexicon.codes)
            alignment = await threads.work(
                align_semantic, prompt, alignment, regions, similar, codes, threshold, planner.matcher
            )
    if not (alignment.kind == Kind.SEMANTIC).any():
        return replace(alignment, refused=why_unlike(alignment, regions, similar, threshold))
    with clock.stage("align"):
        shares = await threads.work(asked, prompt, question, lexicon.texts)
    return replace(alignment, asked=shares)

"""What does an accelerator give? Times on models of real shapes with random weights, in bfloat16.

python benchmarks/gpu.py [--shape llama-3.1-8b mistral-7b] [--tokens 5000 20000] [--sessions 1 8 32] [--device cuda]
python benchmarks/gpu.py --shape tiny --tokens 600 --sessions 1 2 --device cpu    # seconds on a CPU

For each shape: the time to the first token of a cold prompt, of the next turn, of the prompt without its first tenth
(moved) and with every twelfth token changed (semantic), with KV on the device and in RAM; tokens a second of sessions
that decode together; most memory in use. Prompts are token ids drawn at random; their texts do not matter.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from typing import Any

import numpy as np
import tiny_models
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig

from semshare_agents import SemShareLLM
from semshare_agents.model.loading import LoadedModel, prepare
from semshare_agents.values import Ints

GIB = 1024**3
BIG: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SHAPES: dict[str, PreTrainedConfig] = {
    "llama-3.1-8b": LlamaConfig(
        **BIG,
        vocab_size=128_256,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "mistral-7b": MistralConfig(**BIG, vocab_size=32_768, max_position_embeddings=32_768, sliding_window=None),
    "tiny": LlamaConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    ),
}


def made(shape: str, device: str) -> LoadedModel:
    """A model of a shape, its weights drawn on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=dtype)
    return prepare(model.eval(), tiny_models.tokenizer(), shape)


async def first(llm: SemShareLLM, ids: Ints, reuse: str, store: bool = False) -> tuple[float, str]:
    """Seconds to the first token, and what was reused."""
    said = [{"role": "user", "content": "-"}]
    answer = await llm.generate(
        said, raw=True, prompt_ids=ids.tolist(), reuse=reuse, fidelity="fast", store=store, max_new_tokens=1
    )
    return answer.report.ttft_seconds, answer.report.reuse_class


async def prefills(llm: SemShareLLM, ids: Ints, vocabulary: int, times: int) -> dict[str, str]:
    """Median seconds to the first token of each kind of prompt, and over those the cold one's."""
    draw = np.random.default_rng(1)
    changed = ids.copy()
    changed[5::12] = draw.integers(3, vocabulary, len(changed[5::12]))
    follows = np.concatenate((ids, draw.integers(3, vocabulary, 60)))
    prompts = {"cold": (ids, "off"), "next": (follows, "exact"), "moved": (ids[len(ids) // 10 :], "moved")}
    prompts["semantic"] = (changed, "semantic")
    await first(llm, ids, "off", store=True)
    await llm.settle()
    found: dict[str, str] = {}
    cold = 0.0
    for kind, (prompt, reuse) in prompts.items():
        runs = [await first(llm, prompt, reuse) for _ in range(times)]
        seconds = float(np.median([run[0] for run in runs]))
        cold = cold or seconds
        found[kind] = f"{seconds:.3f} s, {cold / seconds:.1f}x ({runs[-1][1]})"
    return found


async def decoding(llm: SemShareLLM, sessions: int, vocabulary: int, tokens: int = 32) -> float:
    """Tokens a second over all sessions that decode together at 1,000 tokens."""
    draw, begins, ends = np.random.default_rng(2), list[float](), list[float]()

    async def one(ids: list[int]) -> int:
        count, said = 0, [{"role": "user", "content": "-"}]
        async for piece in llm.stream(said, raw=True, prompt_ids=ids, store=False, max_new_tokens=tokens):
            if not count:
                begins.append(time.perf_counter())
            if piece.generation is not None:
                count = len(piece.generation.tokens)
        ends.append(time.perf_counter())
        return count

    prompts = [draw.integers(3, vocabulary, 1000).tolist() for _ in range(sessions)]
    counts = await asyncio.gather(*(one(prompt) for prompt in prompts))
    return sum(counts) / (max(ends) - min(begins))


async def measured(shape: str, given: argparse.Namespace) -> None:
    """Print the figures of one shape."""
    model = await asyncio.to_thread(made, shape, given.device)
    vocabulary = SHAPES[shape].vocab_size
    for tier in ("device", "memory") if given.device != "cpu" else ("memory",):
        with tempfile.TemporaryDirectory() as home:
            sizes: dict[str, Any] = {
                "device_bytes": 16 * GIB if tier == "device" else 0,
                "memory_bytes": 16 * GIB,
                "disk_bytes": 0,
            }
            async with SemShareLLM.open(loaded=model, home=home, device=given.device, min_gain=1.0, **sizes) as llm:
                for tokens in given.tokens:
                    ids = np.random.default_rng(tokens).integers(3, vocabulary, tokens)
                    for kind, figure in (await prefills(llm, ids, vocabulary, given.times)).items():
                        print(f"{shape:13} {tier:7} {tokens:6} tokens  {kind:9} {figure}", flush=True)
                for sessions in given.sessions if tier != "device" or given.device == "cpu" else ():
                    speed = await decoding(llm, sessions, vocabulary)
                    print(f"{shape:13} {sessions:3} sessions decode {speed:8.1f} tokens a second", flush=True)
    if given.device != "cpu":
        print(f"{shape:13} most memory in use {torch.cuda.max_memory_allocated() / GIB:.1f} GiB", flush=True)
        del model
        torch.cuda.empty_cache()


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["llama-3.1-8b", "mistral-7b"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[5000, 20_000])
    parser.add_argument("--sessions", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    for shape in given.shape:
        await measured(shape, given)


if __name__ == "__main__":
    asyncio.run(main())

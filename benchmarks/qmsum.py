"""ROUGE-L on meetings that were asked about before: the same question in other words, and another question.

usage: python benchmarks/qmsum.py MEETINGS.jsonl [--limit 2] [--questions 2] [--tokens 6500] [--out FOLDER]

The file is QMSum's (Zhong et al., NAACL 2021): one meeting a line with `meeting_transcripts` (`speaker`, `content`),
`specific_query_list` and `general_query_list` (`query`, `answer`, spans of the turns that matter). A meeting is cut to
fit the model's context, and only questions whose turns are within the cut are asked. Stored is the meeting with one
question; targets are the meeting with that question in other words and with another one. Answers are compared with the
gold answer and with the model's own cold answer, which tells drift that gold answers hide.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from common import OTHER_SYSTEM, arguments, asked, ended, finish, prepared

from semshare_agents.bench.cold import cold_answer
from semshare_agents.bench.fidelity import rouge_l
from semshare_agents.bench.floor import two_pass_answer
from semshare_agents.bench.pairs import PairsOptions, fresh_memory, measure_reuse, prompt_of, warm_up
from semshare_agents.bench.plots import draw_bars
from semshare_agents.cli.common import console
from semshare_agents.errors import ConfigurationError
from semshare_agents.model.loading import LoadedModel
from semshare_agents.settings import Settings
from semshare_agents.values import Reuse

SYSTEM = "You answer questions about a meeting."
REWORDINGS = (
    "From what was said in the meeting, please answer this: {query}",
    "I was not there. Could you tell me: {query}",
    "Read the transcript again and answer in your own words. {query}",
)
PREFILL_ROOM_TOKENS = 256
"""Kept free for the template, the question and the answer."""


@dataclass(frozen=True)
class Meeting:
    """A meeting that fits, and what may be asked about it.

    Attributes:
        text: One turn a line.
        questions: `(query, gold answer)`.
    """

    text: str
    questions: list[tuple[str, str]]


def read_meetings(path: Path, model: LoadedModel, tokens: int, limit: int | None) -> list[Meeting]:
    """Meetings of at most so many tokens.

    Raises:
        ConfigurationError: the file cannot be read or a line is no meeting.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:limit]
        return [_fitted(json.loads(line), model, tokens) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ConfigurationError(f"{path} is not a file of QMSum meetings: {e!r}") from e


def _fitted(raw: dict[str, Any], model: LoadedModel, tokens: int) -> Meeting:
    lines: list[str] = []
    count = 0
    for turn in raw["meeting_transcripts"]:
        line = f"{turn['speaker']}: {turn['content']}"
        count += len(model.tokenizer.encode(line, add_special_tokens=False)) + 1
        if count > tokens:
            break
        lines.append(line)
    whole = len(lines) == len(raw["meeting_transcripts"])
    specific = [
        q for q in raw["specific_query_list"] if all(int(last) < len(lines) for _, last in q["relevant_text_span"])
    ]
    usable = specific + (raw["general_query_list"] if whole else [])
    return Meeting("\n".join(lines), [(q["query"], q["answer"]) for q in usable])


async def measure(
    meeting: Meeting, number: int, questions: int, model: LoadedModel, settings: Settings, options: PairsOptions
) -> list[dict[str, Any]]:
    """Every question of a meeting in both ways; the reference is stored under the same and another system prompt."""
    rows: list[dict[str, Any]] = []
    asks = meeting.questions
    for index in range(min(questions, len(asks))):
        query, gold = asks[index]
        other, _ = asks[(index + 1) % len(asks)]
        reworded = REWORDINGS[index % len(REWORDINGS)].format(query=query)
        targets = [("other words", reworded, query)]
        if len(asks) > 1:
            targets.append(("other question", query, other))
        for case, question, stored in targets:
            target = asked(meeting.text, question, SYSTEM)
            row: dict[str, Any] = {"meeting": number, "case": case, "question": question, "gold": gold}
            cold = None
            for way, system in (("same prompt", SYSTEM), ("other system prompt", OTHER_SYSTEM)):
                async with fresh_memory(model, settings, options.tier) as llm:
                    pipeline = llm.pipeline
                    if cold is None:
                        if not rows:
                            await warm_up(llm, {"target": target})
                        prompt = await prompt_of(model, target)
                        tokens = options.max_new_tokens
                        cold = await cold_answer(pipeline.engine, model, prompt, tokens, options.repeat)
                        again = await pipeline.engine.call(partial(two_pass_answer, pipeline, prompt, tokens))
                        row |= {"n_tokens": len(prompt), "cold_text": cold.text, "floor_text": again}
                    await llm.generate(asked(meeting.text, stored, system), max_new_tokens=1)
                    await llm.flush()
                    row[way] = await measure_reuse(pipeline, target, cold, options)
            rows.append(row)
            console.print(f"meeting {number}, {row['n_tokens']} tokens, {case}: {question}")
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means of each case: the cold run, a second cold run as noise floor, and both ways of reuse."""
    points = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        runs = {"cold": "cold_text", "cold again (floor)": "floor_text"}
        for name, key in runs.items():
            points.append(
                {"case": case, "run": name, "speedup": 1.0, "kl": None, **_rouge(mine, [r[key] for r in mine])}
            )
        for way in ("same prompt", "other system prompt"):
            figures = [row[way] for row in mine]
            points.append(
                {
                    "case": case,
                    "run": f"reuse, {way}",
                    "speedup": median(f["speedup"] for f in figures),
                    "kl": mean(f["kl_mean"] for f in figures),
                    **_rouge(mine, [f["reuse_text"] for f in figures]),
                }
            )
    return points


def _rouge(rows: list[dict[str, Any]], answers: list[str]) -> dict[str, float]:
    return {
        "answers": len(rows),
        "rouge_gold": mean(rouge_l(a, row["gold"]) for a, row in zip(answers, rows, strict=True)),
        "rouge_cold": mean(rouge_l(a, row["cold_text"]) for a, row in zip(answers, rows, strict=True)),
    }


def main() -> None:
    parser = arguments(__doc__, "meetings in QMSum's format, one JSON object a line")
    parser.set_defaults(max_new_tokens=96)
    parser.add_argument("--limit", type=int, default=None, help="most meetings")
    parser.add_argument("--questions", type=int, default=2, help="most questions a meeting")
    parser.add_argument("--tokens", type=int, default=6500, help="longest meeting; longer ones are cut")
    parser.add_argument("--reuse", default="moved")
    given = parser.parse_args()
    reuse = Reuse.parse(given.reuse)
    model, settings = prepared(given)
    room = model.context_tokens - PREFILL_ROOM_TOKENS - given.max_new_tokens
    meetings = read_meetings(given.file, model, min(given.tokens, room), given.limit)
    options = PairsOptions(reuse=reuse, max_new_tokens=given.max_new_tokens, repeat=given.repeat)
    rows: list[dict[str, Any]] = []
    for number, meeting in enumerate(meetings):
        if not meeting.questions:
            console.print(f"meeting {number} is left out: none of its questions is answered within the cut")
            continue
        rows += asyncio.run(measure(meeting, number, given.questions, model, settings, options))
    if not rows:
        raise ConfigurationError(
            f"no meeting of {given.file} has a question that is answered within {given.tokens} tokens"
        )
    summary = summarise(rows)
    entries = {f"{p['case']}: {p['run']}": p for p in summary}
    groups = {
        "ROUGE-L to the gold answer": {name: p["rouge_gold"] for name, p in entries.items()},
        "ROUGE-L to the cold answer": {name: p["rouge_cold"] for name, p in entries.items()},
    }
    caption = (
        f"{len({row['meeting'] for row in rows})} QMSum meetings of at most {min(given.tokens, room)} tokens, reuse "
        f"{given.reuse}. Stored is the meeting with the question (other words) or another one (other question). Cold "
        "again: a second cold run by another route, nothing reused, the noise floor."
    )
    drawn = draw_bars(groups, "", "Meetings asked about before", caption, given.out / "qmsum")
    table = [
        {
            "target": p["case"],
            "run": p["run"],
            "answers": str(p["answers"]),
            "speed-up": f"{p['speedup']:.1f}x",
            "KL": "" if p["kl"] is None else f"{p['kl']:.2g}",
            "ROUGE-L to gold": f"{p['rouge_gold']:.3f}",
            "ROUGE-L to cold": f"{p['rouge_cold']:.3f}",
        }
        for p in summary
    ]
    finish(given.out / "qmsum", "meetings", {"rows": rows, "summary": summary}, table, drawn)


if __name__ == "__main__":
    ended(main)

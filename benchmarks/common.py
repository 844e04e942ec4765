"""What the experiments share: arguments, the model, texts of a pairs file, and where results go."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from semshare_agents.bench.output import console_table, prepare_folder, write
from semshare_agents.bench.pairs import read_pairs
from semshare_agents.bench.plots import require_matplotlib
from semshare_agents.cli.common import console, quiet_libraries
from semshare_agents.errors import ConfigurationError, SemShareError
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.settings import Settings, load_settings

SYSTEM = "You answer questions about a text."
OTHER_SYSTEM = "You are a careful assistant. Today is Monday. Answer what is asked about the text, and be brief."
QUESTION = "What is this text about? Answer in one sentence."
OTHER_QUESTION = "Who is named first? Answer in one sentence."

Message = dict[str, str]


def ended(main: Callable[[], None]) -> None:
    """Run an experiment; the package's own errors end it with one line."""
    try:
        main()
    except SemShareError as e:
        sys.exit(f"error: {e}")


def arguments(doc: str | None, file_help: str) -> argparse.ArgumentParser:
    """A parser with what every experiment takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help=file_help)
    parser.add_argument("--out", type=Path, default=Path("benchmarks-out"), help="folder of figures, table and plots")
    parser.add_argument("--model", default=None)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=1, help="time each prefill so often and take the median")
    return parser


def prepared(given: argparse.Namespace) -> tuple[LoadedModel, Settings]:
    """The model and settings, once it is certain that the results can be written."""
    quiet_libraries()
    warnings.simplefilter("ignore")
    require_matplotlib()
    prepare_folder(given.out)
    settings = load_settings(model=given.model, home=given.home)
    return load(settings.model, settings.home, settings.device, settings.dtype), settings


def finish(base: Path, title: str, result: dict[str, Any], table: Sequence[dict[str, str]], drawn: list[Path]) -> None:
    """Write figures and table, print the table and what was written."""
    console.print(console_table(title, table))
    console.print(f"written to {', '.join(str(path) for path in (*write(base, result, table), *drawn))}")


def asked(text: str, question: str, system: str = SYSTEM) -> list[Message]:
    """A prompt: a text and a question in its last paragraph."""
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{text}\n\n{question}"}]


@dataclass(frozen=True)
class Text:
    """A text in two wordings, sentence by sentence.

    Attributes:
        name: Where it is from.
        sentences: Its sentences.
        reworded: Beside each sentence what the other wording says there; empty where there is no other wording.
    """

    name: str
    sentences: list[str]
    reworded: list[str]


def texts(path: Path, kinds: Sequence[str], limit: int | None) -> list[Text]:
    """Texts of a pairs file, the references as the other wording, or the one text of any file but a `.jsonl`."""
    if path.suffix != ".jsonl":
        try:
            return [Text(path.stem, sentences(path.read_text(encoding="utf-8")), [])]
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigurationError(f"cannot read text from {path}: {e}") from e
    found = []
    for pair in read_pairs(path, kinds, limit):
        wording, other = (pair[side][-1]["content"].rpartition("\n\n")[0] for side in ("target", "reference"))
        found.append(Text(pair["id"], *beside(wording, other)))
    return found


def sentences(text: str) -> list[str]:
    """Sentences with the white space that follows them, so that joining them gives the text."""
    return [s for s in re.split(r"(?<=[.!?])(?=\s)|(?<=\n)", text) if s]


def beside(text: str, other: str) -> tuple[list[str], list[str]]:
    """Sentences of a text, each with its part of another wording.

    Lines stand beside each other where both have equally many; within a line, sentences by their share of it.
    """
    ours, theirs = text.splitlines(keepends=True), other.splitlines(keepends=True)
    if len(ours) != len(theirs):
        ours, theirs = [text], [other]
    left: list[str] = []
    right: list[str] = []
    for line, other_line in zip(ours, theirs, strict=True):
        mine, yours = sentences(line), sentences(other_line)
        left += mine
        cuts = [round(i * len(yours) / len(mine)) for i in range(len(mine) + 1)]
        right += ["".join(yours[a:b]) for a, b in pairwise(cuts)]
    return left, right

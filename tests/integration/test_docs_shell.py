"""Every line that README and docs show in a shell runs."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from pathlib import Path

import pytest

from semshare_agents import SemShareLLM
from semshare_agents.settings import load_settings
from tests import tiny
from tests.shell import ROOT, Shell

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ELSEWHERE = ("scripts/demo", "scripts/test")
"""They build an environment, then run `semshare demo`, which has a test, and this suite."""


def lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    shown = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return [line for line in shown if line.split()[0] not in ELSEWHERE]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A user's shell: twelve turns in the memory, and pairs to measure."""
    folder = tmp_path_factory.mktemp("user")
    model = folder / "model"
    tiny.build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shell = Shell(folder / "home", model, free.getsockname()[1])
    home = shell.folder / ".cache" / "semshare"
    home.mkdir(parents=True)
    (home / "models").symlink_to(load_settings().home / "models")
    (shell.folder / "PAIRS.jsonl").write_text("".join(json.dumps(pair(seed)) + "\n" for seed in range(6)))
    asyncio.run(talk(model, home))
    return shell


def pair(seed: int) -> dict[str, object]:
    text = ". ".join(tiny.words(10, seed=10 * seed + i) for i in range(12)) + "."
    other = " ".join("zzzz" if i % (5 + seed) == 3 else word for i, word in enumerate(text.split(" ")))
    said = {"reference": [tiny.user(f"{other}\n\nwho is it?")], "target": [tiny.user(f"{text}\n\nwhat is it?")]}
    return {"id": f"p{seed}", "kind": "paraphrase", **said}


async def talk(model: Path, home: Path) -> None:
    async with SemShareLLM.open(model=str(model), home=home) as llm:
        for number in range(12):
            tenant = {"tenant": "acme"} if number == 11 else {}
            await llm.session("alice", **tenant).send(f"{number}", max_new_tokens=2)


@pytest.mark.parametrize("page", [page for page in PAGES if lines(page)], ids=lambda page: page.name)
def test_lines_of_a_shell_run(page: Path, shell: Shell) -> None:
    before = dict(shell.env)
    for line in lines(page):
        shell.run(line)
    shell.env = before


def test_what_does_not_work_is_seen(shell: Shell) -> None:
    for line in ("semshare stats --nope", "pip install 'semshare-agents[nope]'", "pip install numpy", "false"):
        with pytest.raises(AssertionError, match="status"):
            shell.run(line)

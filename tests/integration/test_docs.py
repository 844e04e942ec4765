"""What README and docs show runs, and what they name exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from semshare_agents.cli.main import app
from semshare_agents.model.loading import LoadedModel
from semshare_agents.settings import ServerSettings, Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCKS = [
    (f"{page.name}-{number}", block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
]
PLACE = r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`"
"""A folder or a file of the package, as pages about the inside name it."""
PRINTS = {"README.md-0": "cold", "server.md-0": r"\d+ (cold|exact)"}
"""What a block has to print, where it is there to show it."""


@pytest.fixture(scope="module")
def outcomes(default_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What became of every block, by its name."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.blocks", str(tmp_path_factory.mktemp("blocks"))],
        input=json.dumps([block for _, block in BLOCKS]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(zip([name for name, _ in BLOCKS], json.loads(result.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", [name for name, _ in BLOCKS])
def test_python_block_runs(name: str, outcomes: dict[str, dict[str, str]]) -> None:
    assert not outcomes[name]["error"], outcomes[name]["error"]
    assert re.search(PRINTS.get(name, ""), outcomes[name]["printed"])


def test_generated_references_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


# --- commands


def commands(text: str) -> set[str]:
    """Commands of `semshare` in bash blocks and in backticks."""
    shown = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    return {*re.findall(r"\bsemshare [a-z][^#\n]*", shown), *re.findall(r"`(semshare [a-z][^`\n]*)`", text)}


def problem(command: str) -> str:
    """What of a command does not exist; empty where all of it does."""
    node: Any = typer.main.get_command(app)
    for word in shlex.split(re.split(r"[|&>;]", command)[0])[1:]:
        option = word.partition("=")[0]
        if option.startswith("-"):
            known = {name for param in node.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
            if option not in known:
                return f"{node.name} has no {option}"
        elif word in getattr(node, "commands", {}):
            node = node.commands[word]
        elif hasattr(node, "commands") and not node.invoke_without_command:
            return f"{node.name} has no {word}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for command in commands(page.read_text()):
        assert not problem(command), command


def test_commands_in_messages_exist() -> None:
    for path in [*ROOT.glob("semshare_agents/**/*.py"), *ROOT.glob("integrations/**/*.py")]:
        for command in re.findall(r"`(semshare [a-z][^`\n{]*)`", path.read_text()):
            assert not problem(command), f"{path.name}: {command}"


def test_wrong_commands_are_seen() -> None:
    shown = commands(
        "```bash\nx | semshare verify --fixx  # not that\n```\n`semshare bench pears F` `semshare turns show 1`"
    )
    assert {problem(command) for command in shown} == {"verify has no --fixx", "bench has no pears", ""}


# --- names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_exists(page: Path) -> None:
    text = page.read_text()
    kinds = ((Settings, ""), (ServerSettings, "SERVER_"))
    variables = {prefix + name.upper() for kind, prefix in kinds for name in kind.model_fields}
    assert set(re.findall(r"SEMSHARE_([A-Z0-9_]*[A-Z0-9])\b", text)) <= variables
    files = re.findall(r"\b((?:docs|examples|benchmarks|scripts|tests|integrations|semshare_agents)/[\w./-]*\w)", text)
    for file in files:
        assert (ROOT / file).exists(), file
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for script in re.findall(r"\bscripts/\w+\b(?!\.)", text):
        assert os.access(ROOT / script, os.X_OK), script


def test_benchmarks_are_listed() -> None:
    told = (ROOT / "benchmarks" / "README.md").read_text()
    scripts = {path.name for path in (ROOT / "benchmarks").iterdir() if path.is_file()} - {"README.md"}
    assert set(re.findall(r"`(\w+\.py|run_all)`", told)) == scripts


def test_architecture_is_a_page_and_names_rooms_that_are_there() -> None:
    told = (ROOT / "docs" / "architecture.md").read_text()
    assert len(told.splitlines()) <= 150
    assert len(re.findall(PLACE, told)) > 10
    for page in (ROOT / "docs" / "architecture.md", *(ROOT / "docs" / "internals").glob("*.md")):
        for path in re.findall(PLACE, page.read_text()):
            assert (ROOT / "semshare_agents" / path).exists() or (ROOT / path).exists(), f"{page.name}: {path}"


def test_import_is_cheap() -> None:
    """Neither torch nor transformers nor SQLAlchemy is loaded before it is needed."""
    heavy = "{'torch', 'transformers', 'sqlalchemy', 'numpy'}"
    code = f"import sys, semshare_agents; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"

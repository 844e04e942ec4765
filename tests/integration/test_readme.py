"""What the README shows runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from semshare_agents.model.loading import LoadedModel

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", README.read_text()))))
def test_python_block_runs(number: int, default_model: LoadedModel, tmp_path: Path) -> None:
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[number]
    places = {
        "SEMSHARE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/registry.db",
        "SEMSHARE_STORE_DIR": str(tmp_path / "kv"),
    }
    result = subprocess.run(
        [sys.executable, "-c", block],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "cold" in result.stdout


def test_commands_exist() -> None:
    text = README.read_text()
    for script in re.findall(r"^(scripts/\w+)", text, re.MULTILINE):
        assert os.access(README.parent / script, os.X_OK), script


def test_architecture_names_every_module() -> None:
    told = (README.parent / "docs" / "architecture.md").read_text()
    package = README.parent / "semshare_agents"
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).parts
        if path.name == "__init__.py" or parts[0] in ("bench", "cli", "testing", "evict"):
            continue
        if {"strategies", "packing", "migrations"} & set(parts):  # one way a file; the folder has the line
            continue
        assert path.name in told, f"docs/architecture.md does not mention {'/'.join(parts)}"


def test_import_is_cheap() -> None:
    """Neither torch nor transformers nor SQLAlchemy is loaded before it is needed."""
    heavy = "{'torch', 'transformers', 'sqlalchemy', 'numpy'}"
    code = f"import sys, semshare_agents; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"

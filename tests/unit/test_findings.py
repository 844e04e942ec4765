"""Scripts of findings have the form that CONTRIBUTING asks for; what they show is theirs to run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[2] / "findings"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))


def test_there_are_some_and_all_that_are_listed_exist() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \|", (FINDINGS / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(listed)
    assert set(listed) <= {script.stem for script in SCRIPTS} != set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_form(script: Path) -> None:
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    header = text.partition("set -euo pipefail")[0]
    # What it is, what was seen, what the product does about it.
    assert header.count("\n# ") >= 5
    assert "mktemp -d" in text
    assert not re.search(r"semshare_agents|semshare_server|langchain_semshare", text.removeprefix(header))
    for packages in re.findall(r" install ((?:--quiet )*.+)", text):
        assert all("==" in package for package in packages.replace("--quiet", "").split()), packages

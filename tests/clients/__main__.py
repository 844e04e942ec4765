"""Makes the clients' environments, serves a scripted model on loopback, and lets each client ask it.

`python -m tests.clients [SET...]`; the environments are kept in `.venv-clients` and made anew where their list changed.
The set `node` needs npm.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clients.script import Script
from tests.serving import serving

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venv-clients"
SETS = {
    "newest": ["langchain_openai", "pydantic_ai", "litellm", "smolagents", "haystack"],
    # These ask for an older version of the official client.
    "older": ["instructor", "llama_index"],
}


NODE = "node"
UV = [sys.executable, "-m", "uv"]


def command(name: str) -> list[str]:
    """What runs the clients of a set, in their environment."""
    listed = HERE / "ai_sdk" / "package.json" if name == NODE else HERE / f"requirements-{name}.txt"
    home = ENVIRONMENTS / name
    stamp = home / "installed.txt"
    if not stamp.exists() or stamp.read_text() != listed.read_text():
        shutil.rmtree(home, ignore_errors=True)
        (_install_node if name == NODE else _install)(home, listed)
        stamp.write_text(listed.read_text())
    if name == NODE:
        # A module is looked for beside the file that names it.
        shutil.copy(HERE / "ai_sdk" / "check.mjs", home)
        return ["node", str(home / "check.mjs")]
    return [str(home / "bin" / "python"), str(HERE / "check.py"), *SETS[name]]


def _install(home: Path, listed: Path) -> None:
    subprocess.run([*UV, "venv", "--quiet", "--python", sys.executable, home], check=True)
    # The list is complete: nothing has to be resolved, and nothing else comes along.
    pip = [*UV, "pip", "install", "--quiet", "--python", home / "bin" / "python", "--no-deps", "-r", listed]
    subprocess.run(pip, check=True)


def _install_node(home: Path, listed: Path) -> None:
    home.mkdir(parents=True)
    shutil.copy(listed, home)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", home], check=True)


async def main(names: list[str]) -> int:
    """Exit code: 0 where every client got what it expects."""
    commands = await asyncio.gather(*(asyncio.to_thread(command, name) for name in names))
    async with Script().llm as llm, serving(llm) as url:
        return max(await asyncio.gather(*(_asked(words, url) for words in commands)))


async def _asked(words: list[str], url: str) -> int:
    child = await asyncio.create_subprocess_exec(*words, env={**_bare(), "SEMSHARE_BASE": url})
    return await child.wait()


def _bare() -> dict[str, str]:
    """This process's variables, without what would let a client see other packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:] or [*SETS, NODE])))

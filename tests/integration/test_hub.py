"""Models from a hub: a server on loopback speaks the part of the Hugging Face hub's protocol that clients use."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from semshare_agents.model.hub import DEFAULT_HUB_ID
from semshare_agents.model.loading import load
from tests import tiny

COMMIT = "c0ffee00" * 5
REPOSITORIES = ("acme/tiny", DEFAULT_HUB_ID)


class Hub(ThreadingHTTPServer):
    """Serves one folder as each of `REPOSITORIES`."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.respond(b"")

    def do_GET(self) -> None:
        self.respond(None)

    def respond(self, body: bytes | None) -> None:
        path = self.path.split("?")[0].strip("/")
        for repository in REPOSITORIES:
            if path.startswith(f"api/models/{repository}"):
                return self.send(self.described(repository, tree="/tree/" in path), body, {})
            if path.startswith(f"{repository}/resolve/"):
                file = self.server.folder / path.split("/", 4)[4]
                if file.is_file():
                    if body is None:
                        self.server.fetched.append(file.name)
                    content = file.read_bytes()
                    etag = f'"{hashlib.sha256(content).hexdigest()}"'
                    return self.send(content, body, {"ETag": etag, "X-Repo-Commit": COMMIT})
        missing = "EntryNotFound" if "/resolve/" in self.path and path.startswith(REPOSITORIES) else "RepoNotFound"
        return self.send(b"", body, {"X-Error-Code": missing}, 404)

    def described(self, repository: str, tree: bool) -> bytes:
        files = sorted(self.server.folder.iterdir())
        if tree:
            return json.dumps(
                [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": ""} for f in files]
            ).encode()
        siblings = [{"rfilename": f.name} for f in files]
        return json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings, "private": False}).encode()

    def send(self, content: bytes, body: bytes | None, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body is None:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("repository")
    tiny.build("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    server = Hub(folder)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(hub: Hub, home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that knows no other hub; what it fetches goes to `home`."""
    unset = {name for name in os.environ if name.startswith("HF_")}
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    lines = [
        "from pathlib import Path",
        "from semshare_agents.model import hub, loading",
        f"home = Path({str(home)!r})",
    ]
    command = [sys.executable, "-c", "\n".join([*lines, code])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_model_by_its_hub_id(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "print(loading.load('acme/tiny', home).fingerprint)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == load(str(hub.folder), tmp_path).fingerprint
    assert "model.safetensors" in hub.fetched


def test_the_default_model_comes_from_the_hub_where_that_answers(hub: Hub, tmp_path: Path) -> None:
    code = "print(hub.pull_default(home))"
    done = run(hub, tmp_path, code)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split()[-1])
    assert folder.parent == tmp_path / "models"
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    hub.fetched.clear()
    assert run(hub, tmp_path, code).stdout == done.stdout
    assert not hub.fetched, "what was pulled once is not fetched again"


def test_an_unknown_hub_id_is_a_typed_error(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "loading.load('acme/none', home)")
    assert done.returncode
    assert "ModelNotFoundError: cannot load 'acme/none'" in done.stderr

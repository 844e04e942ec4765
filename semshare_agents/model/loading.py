"""Load a causal language model with everything a turn needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from semshare_agents.errors import ConfigurationError, ModelNotFoundError
from semshare_agents.model import hub
from semshare_agents.model.fingerprint import fingerprint
from semshare_agents.model.support import Support, examine

UNKNOWN_CONTEXT = 2048


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to serve turns.

    Attributes:
        model: The transformers model, in eval mode.
        tokenizer: Its tokenizer.
        fingerprint: Digest of everything that shapes its KV.
        support: What its KV can be used for.
        context_tokens: Longest sequence it was made for.
        end_tokens: Token ids that end an answer.
        name: What it was loaded from.
    """

    model: Any
    tokenizer: Any
    fingerprint: str
    support: Support
    context_tokens: int
    end_tokens: frozenset[int]
    name: str

    @property
    def embeddings(self) -> torch.Tensor:
        """Input token embeddings `(vocabulary, hidden)`."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight


def load(
    model: str, home: Path, device: str = "auto", dtype: str = "auto", progress: hub.Progress | None = None
) -> LoadedModel:
    """Load a model from a folder, a hub id or a GGUF file.

    Args:
        model: `default`, a folder, a `.gguf` file or a hub id.
        home: The package's folder, where converted models are kept.
        device: A torch device or `auto`.
        dtype: `float32`, `bfloat16`, `float16` or `auto` (float32 on CPU, bfloat16 elsewhere).
        progress: Called with one line at each slow step.

    Raises:
        ModelNotFoundError: there is no such model, or it cannot be loaded.
        ConfigurationError: the device does not exist.
    """
    from transformers import AutoTokenizer

    source = hub.resolve(model, home, progress or (lambda _: None))
    where = _device(device)
    kind = _dtype(dtype, where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        loaded = _auto_class(source).from_pretrained(source, dtype=kind)
    except (OSError, ValueError, KeyError) as e:
        raise ModelNotFoundError(
            f"cannot load {model!r}: give 'default', a model folder, a .gguf file or a hub id ({e})"
        ) from e
    return prepare(loaded.to(where).eval(), tokenizer, model)


def prepare(model: Any, tokenizer: Any, name: str) -> LoadedModel:
    """Examine and fingerprint a model that is already in memory."""
    config = model.config.get_text_config()
    ends = model.generation_config.eos_token_id if model.generation_config else None
    ends = config.eos_token_id if ends is None else ends
    ids = set(ends) if isinstance(ends, list | tuple) else {ends}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint(model, tokenizer),
        support=examine(model),
        context_tokens=_context_tokens(config),
        end_tokens=frozenset(i for i in ids if i is not None),
        name=name,
    )


def _context_tokens(config: Any) -> int:
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "seq_length"))
    return int(next((size for size in named if size), UNKNOWN_CONTEXT))


def _auto_class(source: Path | str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(source)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise ConfigurationError(f"device {name!r} is not usable here: {e}") from e
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def tokenizer_here(model: str, home: Path) -> Any:
    """The tokenizer of a model whose files are on this machine, without its weights; the network is never asked.

    Args:
        model: `default`, a folder, a `.gguf` file or a hub id.
        home: The package's folder.

    Raises:
        ModelNotFoundError: it is not here, or cannot be read.
    """
    from transformers import AutoTokenizer

    tokenizer = _read_here(AutoTokenizer, model, home)
    # Some kinds are made without a vocabulary where their files are missing, and find no token in any text.
    if not tokenizer.encode("a", add_special_tokens=False):
        raise ModelNotFoundError(f"{model!r} has no tokenizer files on this machine: fetch the whole model")
    return tokenizer


def context_here(model: str, home: Path) -> int:
    """Longest sequence of a model whose configuration is on this machine; arguments and errors as `tokenizer_here`."""
    from transformers import AutoConfig

    return _context_tokens(_read_here(AutoConfig, model, home).get_text_config())


def _read_here(kind: Any, model: str, home: Path) -> Any:
    path = Path(model).expanduser()
    found: dict[str, Any] = {"pretrained_model_name_or_path": model}
    if model == "default":
        found = {"pretrained_model_name_or_path": hub.default_dir(home)}
    elif path.suffix == ".gguf":
        found = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    elif path.is_dir():
        found = {"pretrained_model_name_or_path": path}
    try:
        return kind.from_pretrained(**found, local_files_only=True)
    except (OSError, ValueError, KeyError) as e:
        raise ModelNotFoundError(
            f"the files of {model!r} are not on this machine: `semshare models pull` fetches the default model, the "
            f"first call to a model of a hub that one; a folder or a .gguf file has to be there ({e})"
        ) from e

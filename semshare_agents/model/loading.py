"""Load a causal language model with everything a turn needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from semshare_agents.errors import ConfigurationError, ModelNotFoundError, SemShareError, UnsupportedModelError
from semshare_agents.model import hub
from semshare_agents.model.fingerprint import Fingerprint
from semshare_agents.model.lengths import context_tokens
from semshare_agents.model.reordered import reorder
from semshare_agents.model.support import Support, examine

SHARES = ("top_p", "min_p")
ADVISED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to serve turns.

    Attributes:
        model: The transformers model, in eval mode.
        tokenizer: Its tokenizer.
        identity: Says what shapes its KV at this moment.
        support: What its KV can be used for.
        context_tokens: Longest sequence it was made for.
        end_tokens: Token ids that end an answer.
        name: What it was loaded from.
    """

    model: Any
    tokenizer: Any
    identity: Fingerprint
    support: Support
    context_tokens: int
    end_tokens: frozenset[int]
    name: str

    @property
    def fingerprint(self) -> str:
        """Digest of everything that shapes its KV now: adapters that are switched and weights that change change it.

        Raises:
            UnsupportedModelError: the weights cannot be read.
        """
        return self.identity.current()

    @property
    def embeddings(self) -> torch.Tensor:
        """Input token embeddings `(vocabulary, hidden)`."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def advised_sampling(self) -> dict[str, Any]:
        """How its makers advise to draw tokens (`generation_config.json`), as fields of `Sampling`; empty for greedily.

        Values that are none are left out.
        """
        config = self.model.generation_config
        given = {name: getattr(config, name, None) for name in ADVISED}
        found = {name: float(value) for name, value in given.items() if isinstance(value, int | float) and value > 0}
        found = {name: value for name, value in found.items() if value <= 1 or name not in SHARES}
        if not getattr(config, "do_sample", False):
            return {name: value for name, value in found.items() if name == "repetition_penalty"}
        return {"temperature": 1.0, **found, **({"top_k": int(found["top_k"])} if "top_k" in found else {})}

    @property
    def layers(self) -> int:
        """How many decoder layers it has."""
        return int(getattr(self.model.config.get_text_config(), "num_hidden_layers", 1))


def load(
    model: str,
    home: Path,
    device: str = "auto",
    dtype: str = "auto",
    progress: hub.Progress | None = None,
    reorder_weights: bool = True,
) -> LoadedModel:
    """Load a model from a folder, a hub id or a GGUF file.

    Args:
        model: `default`, a folder, a `.gguf` file or a hub id.
        home: The package's folder, where converted models are kept.
        device: A torch device or `auto`.
        dtype: `float32`, `bfloat16`, `float16` or `auto` (float32 on CPU, bfloat16 elsewhere).
        progress: Called with one line at each slow step.
        reorder_weights: As in `prepare`.

    Raises:
        ModelNotFoundError: there is no such model, or it is no language model.
        UnsupportedModelError: its files are damaged, a package is missing, or it cannot answer turns.
        ConfigurationError: the device does not exist.
    """
    source = hub.resolve(model, home, progress or (lambda _: None))
    where = _device(device)
    kind = _dtype(dtype, where)
    try:
        tokenizer, loaded, missing = _pretrained(source, kind)
        loaded = _moved(loaded, where)
    except SemShareError:
        raise
    except ImportError as e:
        # A quantiser, a tokenizer or code of the model's own needs it; the library's message names the package.
        raise UnsupportedModelError(f"{model!r} needs a package that is not installed: {_one_line(e)}") from e
    except (OSError, ValueError, KeyError) as e:
        raise ModelNotFoundError(
            f"cannot load {model!r}: give 'default', a model folder, a .gguf file or a hub id ({_one_line(e)})"
        ) from e
    except Exception as e:
        raise UnsupportedModelError(
            f"{model!r} cannot be loaded; where its files are damaged, fetch them again "
            f"({type(e).__name__}: {_one_line(e)})"
        ) from e
    if missing:
        raise UnsupportedModelError(
            f"{model!r} lacks {len(missing)} of its weights, which would be random: fetch its files again "
            f"(the first: {', '.join(sorted(missing)[:3])})"
        )
    return prepare(loaded.eval(), tokenizer, model, reorder_weights)


def _pretrained(source: Path | str, dtype: torch.dtype) -> tuple[Any, Any, set[str]]:
    """Tokenizer, model, and the names of weights that its files lack."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    loaded, found = _auto_class(source).from_pretrained(source, dtype=dtype, output_loading_info=True)
    return tokenizer, loaded, set(found["missing_keys"])


def _moved(model: Any, device: torch.device) -> Any:
    try:
        return model.to(device)
    except ValueError:
        if getattr(model, "is_quantized", False):
            # Some quantisers place weights themselves and refuse to move them.
            return model
        raise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def prepare(model: Any, tokenizer: Any, name: str, reorder_weights: bool = False) -> LoadedModel:
    """Examine and fingerprint a model that is already in memory.

    Args:
        model: A transformers model, in eval mode.
        tokenizer: Its tokenizer.
        name: What it is called.
        reorder_weights: Let its linear layers work on reordered weights where that is faster; see
            `semshare_agents.model.reordered`. Nobody can write into those in place any more, as merging adapters does.

    Raises:
        UnsupportedModelError: it cannot answer turns; the message says why.
    """
    support = examine(model)
    if reorder_weights and support.rows is not None:
        reorder(model)
    identity = Fingerprint(model, tokenizer)
    identity.current()
    config = model.config.get_text_config()
    ends = model.generation_config.eos_token_id if model.generation_config else None
    ends = getattr(config, "eos_token_id", None) if ends is None else ends
    ids = set(ends) if isinstance(ends, list | tuple) else {ends}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        identity=identity,
        support=support,
        context_tokens=context_tokens(config),
        end_tokens=frozenset(i for i in ids if i is not None),
        name=name,
    )


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

    return context_tokens(_read_here(AutoConfig, model, home).get_text_config())


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

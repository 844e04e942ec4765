"""Whatever shapes KV changes the fingerprint; nothing else does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing._internal.two_tensor import TwoTensor

from semshare_agents.errors import UnsupportedModelError
from semshare_agents.model.fingerprint import Fingerprint, fingerprint
from tests import tiny

# PEFT asks for an attribute that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def known() -> str:
    return fingerprint(tiny.build("llama"), tiny.tokenizer())


def test_equal_models_have_equal_fingerprints(known: str) -> None:
    assert fingerprint(tiny.build("llama"), tiny.tokenizer()) == known
    assert len(known) == 64
    assert int(known, 16) > 0


def test_where_a_model_came_from_does_not_matter(known: str) -> None:
    model = tiny.build("llama")
    model.config._name_or_path = "/elsewhere"
    model.config.transformers_version = "0.0"
    assert fingerprint(model, tiny.tokenizer()) == known


def test_every_weight_counts(known: str) -> None:
    model = tiny.build("llama")
    seen = {known}
    for name, weight in model.state_dict().items():
        flat = weight.view(-1)
        before = float(flat[-1])
        flat[-1] = before + 1e-3
        changed = fingerprint(model, tiny.tokenizer())
        assert changed not in seen, name
        seen.add(changed)
        flat[-1] = before
    assert fingerprint(model, tiny.tokenizer()) == known


def template(tokenizer: Any) -> None:
    tokenizer.chat_template += " "


def vocabulary(tokenizer: Any) -> None:
    tokenizer.add_tokens(["newword"])


@pytest.mark.parametrize("change", [template, vocabulary])
def test_the_tokenizer_counts(known: str, change: Any) -> None:
    changed = copy.deepcopy(tiny.tokenizer())
    change(changed)
    assert fingerprint(tiny.build("llama"), changed) != known


def test_dtype_rope_and_seed_count(known: str) -> None:
    others = [
        fingerprint(tiny.build("llama", torch.bfloat16), tiny.tokenizer()),
        fingerprint(tiny.build("llama", seed=8), tiny.tokenizer()),
        *(fingerprint(tiny.build(f"llama-{rope}"), tiny.tokenizer()) for rope in ("linear", "llama3", "yarn")),
    ]
    assert len({known, *others}) == 6


def test_quantisation_counts(known: str) -> None:
    quantised = tiny.build("llama")
    quantised.quantization_method = "some"
    assert fingerprint(quantised, tiny.tokenizer()) != known


LORA = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")


def adapted(*names: str) -> Any:
    """A model with adapters that change what it computes, the first of them active."""
    model = get_peft_model(tiny.build("llama"), LORA, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, LORA)
    fill(model, *names)
    return model.eval()


def fill(model: Any, *names: str) -> None:
    for seed, name in enumerate(names):
        draw = torch.Generator().manual_seed(seed)
        for path, weight in model.named_parameters():
            if f"lora_B.{name}." in path:
                weight.data.normal_(std=0.5, generator=draw)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model(torch.arange(5, 25)[None]).logits
    return out


def test_a_fingerprint_follows_the_active_adapter() -> None:
    model = adapted("red", "blue")
    watched = Fingerprint(model, tiny.tokenizer())
    of_red = watched.current()
    assert watched.current() == of_red
    model.set_adapter("blue")
    of_blue = watched.current()
    model.set_adapter("red")
    assert watched.current() == of_red
    with model.disable_adapter():
        of_none = watched.current()
    assert watched.current() == of_red
    model.merge_adapter()
    assert len({of_red, of_blue, of_none, watched.current()}) == 4


def test_another_process_finds_the_same_fingerprint_for_the_same_adapter() -> None:
    assert fingerprint(adapted("red"), tiny.tokenizer()) == fingerprint(adapted("red"), tiny.tokenizer())


def test_an_adapter_that_takes_no_part_does_not_count() -> None:
    model = adapted("red", "blue")
    watched = Fingerprint(model, tiny.tokenizer())
    before, computed = watched.current(), logits(model)
    fill(model, "other", "blue")
    model.add_adapter("green", LORA)
    assert torch.equal(logits(model), computed)
    assert watched.current() == before


def test_an_adapter_loaded_again_under_its_name_is_another(tmp_path: Path) -> None:
    model = adapted("red")
    watched = Fingerprint(model, tiny.tokenizer())
    before = watched.current()
    model.save_pretrained(tmp_path)
    for seed in range(3):
        # Freed memory is given out again: new weights may lie where the old ones were.
        model.add_adapter("spare", LORA)
        model.set_adapter("spare")
        model.delete_adapter("red")
        model.add_adapter("red", LORA)
        model.set_adapter("red")
        model.delete_adapter("spare")
        fill(model, *("other",) * (seed + 1), "red")
        assert watched.current() != before
    model.load_adapter(str(tmp_path / "red"), "red")
    assert watched.current() == before


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("part", ["q_proj.base_layer", "lora_A.red", "lora_B.red"])
def test_weights_written_in_place_change_it(part: str, counted: bool) -> None:
    model = adapted("red")
    watched = Fingerprint(model, tiny.tokenizer())
    before = watched.current()
    weight = next(w for name, w in model.named_parameters() if part in name)
    with torch.no_grad():
        if counted:
            weight.mul_(1.01)
        else:
            # The library's version counter does not see this.
            weight.data.mul_(1.01)
    assert watched.current() != before


def test_weights_put_in_the_place_of_others_change_it() -> None:
    model = tiny.build("llama")
    watched = Fingerprint(model, tiny.tokenizer())
    before = watched.current()
    module = model.model.layers[0].mlp.up_proj
    module.weight = torch.nn.Parameter(module.weight.detach().clone())
    assert watched.current() == before
    changed = module.weight.detach().clone()
    changed[0, 1] += 0.5
    module.weight = torch.nn.Parameter(changed)
    assert watched.current() != before


def test_tensors_of_red_class_of_their_own_are_read_part_by_part() -> None:
    def wrapped(change: float) -> str:
        model = tiny.build("llama")
        module = model.model.layers[1].mlp.up_proj
        codes, scale = module.weight.detach(), module.weight.detach().abs() + change
        module.weight = torch.nn.Parameter(TwoTensor(codes, scale), requires_grad=False)
        return fingerprint(model, tiny.tokenizer())

    assert wrapped(0.0) == wrapped(0.0)
    assert wrapped(0.0) != wrapped(0.125)


class Sealed(torch.Tensor):
    """A tensor that shows nobody its bytes."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.Tensor.cpu, torch.Tensor.view):
            raise NotImplementedError("sealed")
        return super().__torch_function__(function, types, args, kwargs or {})


def test_weights_that_cannot_be_read_are_a_typed_error() -> None:
    model = tiny.build("llama")
    module = model.model.layers[1].mlp.up_proj
    module.weight = torch.nn.Parameter(module.weight.detach().as_subclass(Sealed), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"up_proj.*Sealed.*another quantiser"):
        fingerprint(model, tiny.tokenizer())

"""Model folders that cannot be used end in one typed error that says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semshare_agents.doctor import State, examine
from semshare_agents.doctor.model import model_check, of_another_answer
from semshare_agents.errors import ModelNotFoundError, UnsupportedModelError
from semshare_agents.model.loading import load, prepare
from semshare_agents.settings import load_settings
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    tiny.build("llama").save_pretrained(made)
    tiny.tokenizer().save_pretrained(made)
    return made


def changed(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_sound_folder_loads(folder: Path, tmp_path: Path) -> None:
    assert load(str(folder), tmp_path).support.rows is not None


@pytest.mark.parametrize(
    ("quantisation", "package"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, "optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel|autoawq|GPU"),
        ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
    ],
)
def test_a_missing_quantiser_is_named(folder: Path, tmp_path: Path, quantisation: object, package: str) -> None:
    changed(folder, quantization_config=quantisation)
    with pytest.raises((UnsupportedModelError, ModelNotFoundError), match=package):
        load(str(folder), tmp_path)


def test_missing_weights_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"lacks 1 of its weights.*layers\.1\.mlp\.up_proj"):
        load(str(folder), tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "garbled"])
def test_damaged_weights_are_a_typed_error(folder: Path, tmp_path: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\xff" * len(data))
    with pytest.raises((UnsupportedModelError, ModelNotFoundError)):
        load(str(folder), tmp_path)


def test_weights_of_other_shapes_are_a_typed_error(folder: Path, tmp_path: Path) -> None:
    changed(folder, intermediate_size=64)
    with pytest.raises(UnsupportedModelError):
        load(str(folder), tmp_path)


def test_a_broken_configuration_is_a_typed_error(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises((UnsupportedModelError, ModelNotFoundError)):
        load(str(folder), tmp_path)


async def test_doctor_says_why_a_model_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    changed(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False})
    settings = load_settings(model=str(folder), home=tmp_path / "home")
    checks = {check.name: check async for check in examine(settings)}
    assert checks["model"].state is State.FAILED
    assert "pip install optimum" in checks["model"].found


@pytest.mark.parametrize("family", ["mistral-window", "phi3-longrope"])
def test_doctor_says_from_which_length_turns_run_cold(family: str) -> None:
    check = model_check(tiny.loaded(family))
    assert check.state is State.WARNING
    assert f"more than {tiny.WINDOW_TOKENS} tokens run cold" in check.advice
    assert tiny.LIMITED[family] in check.found


def test_doctor_calls_a_model_without_limits_fit() -> None:
    check = model_check(tiny.loaded("llama"))
    assert (check.state, check.advice) == (State.OK, "")


@pytest.mark.parametrize(
    ("codec", "dtype", "state", "word"),
    [
        ("raw", torch.float32, State.FAILED, "report"),
        ("raw", torch.bfloat16, State.WARNING, "bfloat16 rounds"),
        ("int8", torch.float32, State.WARNING, "kv_codec"),
    ],
)
def test_doctor_blames_for_another_answer_what_can_cause_it(
    codec: str, dtype: torch.dtype, state: State, word: str
) -> None:
    found, advice = of_another_answer(codec, dtype)
    assert found is state
    assert word in advice


def test_doctor_misses_a_chat_template() -> None:
    model = tiny.build("llama")
    tokenizer = type(tiny.tokenizer())(tokenizer_object=tiny.tokenizer().backend_tokenizer, eos_token="<|im_end|>")
    check = model_check(prepare(model, tokenizer, "tiny"))
    assert check.state is State.WARNING
    assert "no chat template" in check.found

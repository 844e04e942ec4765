"""Settings, messages, errors and the package's public names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import semshare_agents
from semshare_agents import errors
from semshare_agents.errors import ConfigurationError, ContextLengthError, InvalidMessagesError, TemplateError
from semshare_agents.model.tokenise import check_length, clean_messages, tokenise
from semshare_agents.settings import load_settings
from semshare_agents.values import Reuse
from tests import tiny


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_bytes": -1},
        {"disk_bytes": -5},
        {"memory_bytes": 0, "disk_bytes": 0},
        {"block_tokens": 0},
        {"block_tokens": 2000},
        {"reuse": "sometimes"},
        {"semantic_share": 1.5},
        {"similarity_threshold": -0.1},
        {"min_gain": 0.5},
        {"tail_tokens": 0},
        {"head_tokens": -1},
        {"dtype": "int8"},
        {"threads": 0},
        {"tenant": ""},
        {"model": ""},
        {"max_new_tokens": 0},
        {"no_such_setting": 1},
    ],
)
def test_bad_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**wrong)
    assert next(iter(wrong)) in str(caught.value)


def test_the_environment_is_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEMSHARE_HOME", str(tmp_path))
    monkeypatch.setenv("SEMSHARE_MEMORY_BYTES", "1000")
    monkeypatch.setenv("SEMSHARE_REUSE", "exact")
    settings = load_settings(memory_bytes=2000)
    assert settings.home == tmp_path
    assert settings.memory_bytes == 2000
    assert settings.reuse is Reuse.EXACT
    assert settings.kv_dir == tmp_path / "kv"
    assert settings.registry_url == f"sqlite+aiosqlite:///{tmp_path / 'registry.db'}"


@pytest.mark.parametrize(
    ("name", "value"), [("REUSE", "maybe"), ("MEMORY_BYTES", "lots"), ("MIN_GAIN", "0"), ("DTYPE", "f8")]
)
def test_bad_environment_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"SEMSHARE_{name}", value)
    with pytest.raises(ConfigurationError):
        load_settings()


def test_the_default_home_follows_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SEMSHARE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_settings().home == tmp_path / "semshare"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().model = "other"  # type: ignore[misc]


def test_reuse_words_include_the_ones_before() -> None:
    order = [Reuse.OFF, Reuse.EXACT, Reuse.MOVED, Reuse.SEMANTIC]
    assert [Reuse.parse(str(w)) for w in order] == order
    for i, one in enumerate(order):
        assert [one.allows(other) for other in order] == [j <= i for j in range(4)]
    for wrong in ("", "EXACT ", None, 3):
        with pytest.raises(ConfigurationError, match="off, exact, moved, semantic"):
            Reuse.parse(wrong)


def test_text_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    cleaned = clean_messages([{"role": "user", "content": parts, "name": "x"}])
    assert cleaned == [{"role": "user", "content": "a\nb", "name": "x"}]


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}), (None, {}), ("", {}), ('{"a": ', '{"a": ')],
)
def test_tool_calls_may_have_no_content_and_arguments_as_text(given: Any, cleaned: Any) -> None:
    calls = [{"id": "x", "function": {"name": "f", "arguments": given}}]
    [message] = clean_messages([{"role": "assistant", "content": None, "tool_calls": calls}])
    assert message["content"] == ""
    assert message["tool_calls"] == [{"id": "x", "type": "function", "function": {"name": "f", "arguments": cleaned}}]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "must not be empty"),
        ("hello", "must be a list"),
        (b"hello", "must be a list"),
        ({"role": "user", "content": "a"}, "must be a list"),
        (None, "must be a list"),
        ([None], "message 0 is not a mapping"),
        ([tiny.user("a"), "b"], "message 1 is not a mapping"),
        ([{"content": "a"}], "role"),
        ([{"role": "king", "content": "a"}], "king"),
        ([{"role": "user"}], "content of type NoneType"),
        ([{"role": "user", "content": 5}], "content of type int"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "other than text"),
        ([{"role": "user", "content": ["bare"]}], "other than text"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "other than text"),
        ([{"role": "assistant", "content": "", "tool_calls": "f"}], "tool_calls of type str"),
        ([{"role": "assistant", "content": "", "tool_calls": ["f"]}], "tool call that is not"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": 3}}]}], "tool call that is not"),
    ],
)
def test_malformed_messages_say_what_is_wrong(messages: Any, problem: str) -> None:
    with pytest.raises(InvalidMessagesError, match=problem):
        clean_messages(messages)


@pytest.mark.parametrize("role", [["user"], {"a": 1}, 3])
def test_roles_that_are_no_words_are_refused(role: Any) -> None:
    with pytest.raises(InvalidMessagesError):
        clean_messages([{"role": role, "content": "a"}])


def test_a_tokenizer_without_a_template_is_refused() -> None:
    class Bare:
        chat_template = None

    with pytest.raises(TemplateError, match="chat template"):
        tokenise(Bare(), [tiny.user("a")])


def test_the_answer_is_cut_to_the_context() -> None:
    assert check_length(100, 50, 200) == 50
    assert check_length(180, 50, 200) == 20
    assert check_length(199, 50, 200) == 1
    with pytest.raises(ContextLengthError, match="shorten"):
        check_length(200, 1, 200)


TREE = {
    "SemShareError": "Exception",
    "ConfigurationError": "SemShareError",
    "CalibrationError": "ConfigurationError",
    "NotStoredError": "ConfigurationError",
    "PinError": "ConfigurationError",
    "ModelError": "SemShareError",
    "ModelNotFoundError": "ModelError",
    "UnsupportedModelError": "ModelError",
    "ModelChecksumError": "ModelError",
    "PromptError": "SemShareError",
    "InvalidMessagesError": "PromptError",
    "InvalidToolsError": "PromptError",
    "InvalidSchemaError": "PromptError",
    "TemplateError": "PromptError",
    "ContextLengthError": "PromptError",
    "RegistryError": "SemShareError",
    "RegistryUnavailableError": "RegistryError",
    "SchemaVersionError": "RegistryError",
    "ForgottenError": "RegistryError",
    "StoreError": "SemShareError",
    "StoreNotWritableError": "StoreError",
    "CorruptBlockError": "StoreError",
    "SealedError": "SemShareError",
    "DamagedSealError": "SealedError",
    "ClosedError": "SemShareError",
}


def test_the_exception_tree_is_the_one_drawn() -> None:
    classes = {name: c for name, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)}
    assert {name: c.__bases__[0].__name__ for name, c in classes.items()} == TREE
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.PromptError, ValueError)
    assert issubclass(errors.ClosedError, RuntimeError)
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in TREE)


PUBLIC = [
    "SemShareLLM",
    "Session",
    "Settings",
    "Generation",
    "CallPart",
    "Piece",
    "Report",
    "Reuse",
    "Sampling",
    "ToolCall",
    "Usage",
    "ClosedError",
    "ConfigurationError",
    "ContextLengthError",
    "InvalidMessagesError",
    "InvalidSchemaError",
    "InvalidToolsError",
    "ModelError",
    "PinError",
    "PromptError",
    "RegistryError",
    "SchemaVersionError",
    "SealedError",
    "SemShareError",
    "StoreError",
    "TemplateError",
]


def test_public_names_are_pinned() -> None:
    assert sorted(semshare_agents.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(semshare_agents, name).__name__ == name
    assert set(PUBLIC) <= set(dir(semshare_agents))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = semshare_agents.nonsense


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, semshare_agents; print([m for m in ('torch', 'transformers', 'sqlalchemy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_what_others_test_with_is_public() -> None:
    from semshare_agents import testing

    kinds = ("EvictionPolicy", "Matcher", "Packing", "Registry", "Store", "Strategy", "ToolFormat")
    assert sorted(testing.__all__) == sorted([*(f"{k}Conformance" for k in kinds), "FakeCall", "FakeLLM", "tool_call"])
    assert set(testing.__all__) <= set(dir(testing))
    assert all(getattr(testing, name).__name__ == name for name in testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018

"""LangChain's own standard tests of chat models, on the default model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_semshare import ChatSemShare
from langchain_semshare.host import host_of
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from semshare_agents.model.loading import LoadedModel

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")
"""Version 3 of LangChain's event streams."""


@pytest.fixture(scope="module")
def places(
    default_model: LoadedModel, default_home: Path, reuse_wins: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Settings of one adapter for all tests, on the default model and in a memory of its own."""
    folder = tmp_path_factory.mktemp("langchain")
    settings = {
        "home": str(default_home),
        "database_url": f"sqlite+aiosqlite:///{folder}/registry.db",
        "store_dir": str(folder / "kv"),
    }
    yield settings
    host_of({"model": "default", **settings}).close()


class Declared:
    """What the class has, as LangChain's suites ask for it."""

    params: dict[str, Any]
    more: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _adapter(self, places: dict[str, Any]) -> None:
        type(self).params = {"settings": places, **self.more}

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSemShare

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.params

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def returns_usage_metadata(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}


class TestUnit(Declared, ChatModelUnitTests):
    """The suite that calls no model."""

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"SEMSHARE_MODEL": "some/model"}, {}, {"model": "some/model"}


class TestIntegration(Declared, ChatModelIntegrationTests):
    """The suite that does."""

    # A small model tells no joke in few tokens, and repeats itself in many.
    more: ClassVar[dict[str, Any]] = {"max_tokens": 200, "frequency_penalty": 0.8}

    @pytest.mark.xfail(strict=True, reason="a model of 135M parameters calls tools only where tool_choice asks for it")
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatSemShare(**self.params)
        asked = [HumanMessage("Name the days of the week, the months of the year and the four seasons. " * 8)]
        first = model.invoke(asked)
        follow = [*asked, first, HumanMessage("And now?")]
        if not stream:
            answer = model.invoke(follow)
        else:
            parts = list(model.stream(follow))
            answer = parts[0]
            for part in parts[1:]:
                answer += part
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 100
        return answer

"""Answers of a schema: the model bound to it, and what reads its answers."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from semshare_agents.errors import ConfigurationError

METHODS = ("function_calling", "json_mode", "json_schema")


def structured(
    model: BaseChatModel, schema: Any, method: str, include_raw: bool, options: Mapping[str, Any]
) -> Runnable[Any, Any]:
    """A chat model that answers with objects of a schema.

    `function_calling` forces a call of a tool that takes the schema; the prompt tells of it. `json_schema` holds the
    answer to the schema and leaves the prompt alone. `json_mode` does the same, or any JSON object without a schema.

    Args:
        model: The chat model.
        schema: A Pydantic class, a TypedDict or a JSON schema; None for `json_mode` alone.
        method: See above.
        include_raw: Answer with `raw`, `parsed` and `parsing_error`.
        options: Further options of every call.

    Raises:
        ConfigurationError: the method is unknown, or has no schema.
    """
    if method not in METHODS:
        raise ConfigurationError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if schema is None and method != "json_mode":
        raise ConfigurationError(f"method {method!r} needs a schema")
    told = {} if schema is None else {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
    if method == "function_calling":
        tool = convert_to_openai_tool(schema)["function"]["name"]
        bound = model.bind_tools([schema], tool_choice=tool, **told, **options)
        reader = _tool_reader(schema, tool)
    else:
        wanted = {"type": "object"} if schema is None else _json_schema(schema)
        bound = model.bind(response_schema=wanted, **told, **options)
        reader = PydanticOutputParser(pydantic_object=schema) if _is_pydantic(schema) else JsonOutputParser()
    if not include_raw:
        return bound | reader
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | reader, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _tool_reader(schema: Any, tool: str) -> OutputParserLike[Any]:
    if _is_pydantic(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=tool, first_tool_only=True)


def _is_pydantic(schema: Any) -> bool:
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def _json_schema(schema: Any) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    if isinstance(schema, dict) and ("type" in schema or "$ref" in schema or "anyOf" in schema):
        return schema
    return convert_to_json_schema(schema)

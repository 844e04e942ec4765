from __future__ import annotations

import pytest

from semshare_agents.testing import ToolFormatConformance
from semshare_agents.tools import FORMATS, ToolFormat, format_of
from semshare_agents.tools.hermes import Hermes
from semshare_agents.tools.llama3 import Llama3
from semshare_agents.tools.mistral import Mistral, MistralList
from semshare_agents.tools.xml import XmlLike

TEMPLATES: dict[type[ToolFormat], str] = {
    XmlLike: "<tool_call><function={{ name }}><parameter={{ key }}>{{ value }}</parameter></function></tool_call>",
    Hermes: "{% if tools %}{{ tools }} Answer in <tool_call></tool_call> tags.{% endif %}{{ m.content }}",
    Mistral: "{{ '[AVAILABLE_TOOLS]' }}{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}",
    MistralList: "{{ '[AVAILABLE_TOOLS]' }}{{ tools }}[TOOL_CALLS] [{{ calls }}]",
    Llama3: """{{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}""",
}


def test_every_format_has_a_template_by_which_it_is_chosen() -> None:
    assert {kind: type(format_of(template)) for kind, template in TEMPLATES.items()} == {kind: kind for kind in FORMATS}


class TestToolFormats(ToolFormatConformance):
    @pytest.fixture(params=FORMATS, ids=lambda kind: kind.__name__)
    def form(self, request: pytest.FixtureRequest) -> ToolFormat:
        made: ToolFormat = request.param()
        return made

    @pytest.fixture
    def template(self, form: ToolFormat) -> str:
        return TEMPLATES[type(form)]

"""The table of `docs/messages.md`: what becomes of each form under each kind of template.

`python -m tests.message_table` writes it; `tests/unit/test_message_forms.py` holds it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from semshare_agents.errors import TemplateError
from semshare_agents.messages.cleaning import RESULTS, clean_messages
from semshare_agents.messages.prompt import ChatPrompt
from semshare_agents.messages.rounds import Message
from semshare_agents.messages.template import form_of
from semshare_agents.tools.checking import Tools, clean_tools
from semshare_agents.tools.forms import in_one_form
from tests import prompts
from tests.forms import FORMS, Form
from tests.templates import KINDS, MARKS, TEMPLATES

PAGE = Path(__file__).parents[1] / "docs" / "messages.md"
BEGIN, END = "<!-- table of forms -->", "<!-- end of the table -->"


@lru_cache
def chat(name: str) -> ChatPrompt:
    """What makes prompts of a template by its name."""
    made = prompts.tokenizer(TEMPLATES[name], special=MARKS.get(name, ()))
    return ChatPrompt(made, form_of(made))


def tools_of(form: Form) -> Tools:
    """Its tools in OpenAI's form."""
    return clean_tools(in_one_form(form.tools))


def becomes(form: Form, name: str) -> str:
    """The messages as the template gets them, a letter each; `=` where they are as they were given."""
    made, messages = chat(name), clean_messages(form.messages)
    told, tools = made.told(messages, tools_of(form))
    try:
        made._rendering.text(told, tools, {})
    except TemplateError:
        told, tools = made.told(messages, tools_of(form), plain=True)
    given = [dict(message) for message in messages]
    if [message for _, message in told] == given and bool(tools) == bool(form.tools):
        return "="
    return " ".join(_letter(message) for _, message in told)


def _letter(message: Message) -> str:
    role = "result" if message["role"] in RESULTS else message["role"]
    letter = "c" if "tool_calls" in message else role[0]
    return letter if message["content"] or letter == "c" or role == "result" else f"({letter})"


def table() -> str:
    """The whole table."""
    kinds = [[n for n, template in TEMPLATES.items() if template in templates] for templates in KINDS.values()]
    lines = [f"| form | given | {' | '.join(KINDS)} |", f"|---|---|{'---|' * len(KINDS)}"]
    for form in FORMS:
        given = " ".join(_letter(message) for message in clean_messages(form.messages))
        cells = [" / ".join(dict.fromkeys(becomes(form, name) for name in names)) for names in kinds]
        lines.append(f"| {form.name} | {given} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()

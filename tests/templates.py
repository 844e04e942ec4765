"""Chat templates of six kinds, of our own making, that behave as those of real models do.

What each refuses, drops, moves or trims is what such models' templates do; none of their text is here.
"""

from __future__ import annotations

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Any role as it is called; knows neither tools nor thoughts."""

_HERMES_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "<tools>{% for t in tools %}{{ '\\n' }}{{ t | tojson }}{% endfor %}{{ '\\n' }}</tools>\n"
    "Call inside <tool_call></tool_call>:\n"
    "CALLED_SO<|im_end|>\n{% elif messages[0].role == 'system' %}"
    "<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
)
_LAST_QUERY = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' and not "
    "(m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
_THOUGHT = (
    "{% set said = m.content %}{% set thought = m.reasoning_content or '' %}"
    "{% if not m.reasoning_content and '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
_TOOL_RESULTS = (
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\\n' }}<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
)
QWEN3 = (
    _HERMES_TOOLS.replace("CALLED_SO", '<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>')
    + _LAST_QUERY
    + "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}"
    + _THOUGHT
    + "<|im_start|>assistant\n{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "<think>\n{{ thought.strip('\n') }}\n</think>\n\n{{ said.lstrip('\n') }}{% else %}{{ said }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{% if said or not loop.first %}{{ '\\n' }}{% endif %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
    "{{ call.function.arguments | tojson }}{% endif %}}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}" + _TOOL_RESULTS + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Skips roles that it does not know, leaves thoughts out once the user speaks again, adds an empty one at the end."""

QWEN35 = (
    _HERMES_TOOLS.replace(
        "CALLED_SO", "<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>"
    )
    + _LAST_QUERY
    + "{% if ns.last < 0 %}{{ raise_exception('nobody asks') }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% if not loop.first %}{{ raise_exception('the system speaks first') }}{% endif %}"
    "{% elif m.role == 'user' %}<|im_start|>user\n{{ m.content | trim }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}"
    + _THOUGHT
    + "<|im_start|>assistant\n{% if loop.index0 > ns.last %}<think>\n{{ thought | trim }}\n</think>\n\n{% endif %}"
    "{{ said | trim }}{% for call in m.tool_calls or [] %}{% if loop.first and said | trim %}{{ '\\n\\n' }}"
    "{% elif not loop.first %}{{ '\\n' }}{% endif %}<tool_call>\n<function={{ call.function.name }}>\n"
    "{% for k, v in call.function.arguments | items %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% elif m.role == 'tool' %}"
    + _TOOL_RESULTS
    + "{% else %}{{ raise_exception('an unknown role') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)
"""The system speaks first or not at all, somebody has to ask, arguments are walked, the prompt opens a thought."""

LLAMA3 = (
    "{{ bos_token }}{% set told = messages %}{% set rules = '' %}"
    "{% if told[0].role == 'system' %}{% set rules = told[0].content | trim %}{% set told = told[1:] %}{% endif %}"
    "<|head|>system<|/head|>\n\n{% if tools %}Environment: ipython\n{% endif %}Knows until 2023\n\n{{ rules }}<|eot|>"
    "{% if tools %}{% if not told %}{{ raise_exception('tools need a first message') }}{% endif %}"
    "{% set first = told[0].content | trim %}{% set told = told[1:] %}<|head|>user<|/head|>\n\n"
    'Answer with {"name": NAME, "parameters": OBJECT}.\n\n'
    "{% for t in tools %}{{ t | tojson(indent=4) }}\n\n{% endfor %}"
    "{{ first }}<|eot|>{% endif %}"
    "{% for m in told %}{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}<|head|>assistant<|/head|>\n\n"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot|>'
    "{% elif m.role in ('tool', 'ipython') %}<|head|>ipython<|/head|>\n\n"
    "{% if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}"
    "<|eot|>{% else %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
"""One call a message and no text beside it, results as JSON, tools in the first message whoever speaks it."""

MISTRAL3 = (
    "{% set told = messages %}{% if told[0].role == 'system' %}{% set rules = told[0].content %}"
    "{% set told = told[1:] %}{% endif %}{% set asked = told | selectattr('role', 'equalto', 'user') | list %}"
    "{% set ns = namespace(at=0) %}{% for m in told %}"
    "{% if m.role != 'tool' and not (m.tool_calls is defined and m.tool_calls is not none) %}"
    "{% if (m.role == 'user') != (ns.at % 2 == 0) %}{{ raise_exception('user and assistant take turns') }}{% endif %}"
    "{% set ns.at = ns.at + 1 %}{% endif %}{% endfor %}{{ bos_token }}"
    "{% for m in told %}{% if m.role == 'user' %}"
    "{% if tools and m == asked[-1] %}[AVAILABLE_TOOLS] [{% for t in tools %}{{ t | tojson }}"
    "{{ ', ' if not loop.last }}{% endfor %}][/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {% if loop.last and rules is defined %}{{ rules }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS] ["
    "{% for call in m.tool_calls %}{% if call.id is not defined or call.id | length != 9 %}"
    "{{ raise_exception('ids have nine letters') }}{% endif %}{{ (call.function | tojson)[:-1] }}"
    ', "id": "{{ call.id }}"}{{ ", " if not loop.last }}{% endfor %}]{{ eos_token }}'
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% elif m.role == 'tool' %}{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{ raise_exception('ids have nine letters') }}{% endif %}"
    '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}{{ raise_exception('an unknown role') }}{% endif %}{% endfor %}"
)
"""Turns, ids of nine letters, the system and the tools with the user's last message, no text beside calls."""

_GEMMA_TURNS = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and model take turns') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
)
_GEMMA_ANSWER = "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
GEMMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}" + _GEMMA_TURNS + "{{ m.content | trim }}<end_of_turn>\n{% endfor %}" + _GEMMA_ANSWER
)
"""Turns, and no system message."""
GEMMA3 = (
    "{{ bos_token }}{% set told = messages %}{% set rules = '' %}{% if told[0].role == 'system' %}"
    "{% set rules = (told[0].content if told[0].content is string else told[0].content[0].text) + '\n\n' %}"
    "{% set told = told[1:] %}{% endif %}{% for m in told %}"
    + _GEMMA_TURNS
    + "{{ rules if loop.first }}{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    + _GEMMA_ANSWER
)
"""Turns; the system message goes into the user's first."""

KNOWS_NOTHING = (
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n"
    "{% elif m.role == 'assistant' %}A: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
"""User and assistant; everything else is skipped without a word."""

KINDS = {
    "ChatML": (CHATML,),
    "Qwen3, Qwen3.5": (QWEN3, QWEN35),
    "Llama 3": (LLAMA3,),
    "Mistral v3": (MISTRAL3,),
    "Gemma 2, Gemma 3": (GEMMA2, GEMMA3),
    "knows nothing": (KNOWS_NOTHING,),
}
"""The six kinds."""
TEMPLATES = {
    "ChatML": CHATML,
    "Qwen3": QWEN3,
    "Qwen3.5": QWEN35,
    "Llama 3": LLAMA3,
    "Mistral v3": MISTRAL3,
    "Gemma 2": GEMMA2,
    "Gemma 3": GEMMA3,
    "knows nothing": KNOWS_NOTHING,
}
MARKS = {
    "Llama 3": ("<|head|>", "<|/head|>", "<|eot|>"),
    "Mistral v3": (
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),
    "Gemma 2": ("<start_of_turn>", "<end_of_turn>"),
    "Gemma 3": ("<start_of_turn>", "<end_of_turn>"),
}
"""Control tokens of the kinds whose marks are not ChatML's."""

"""Chat templates of strangers: they render as in transformers, and harm nobody where they do not."""

import time
from collections.abc import Callable, Iterator

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from server.errors import InvalidRequest
from server.requests import Turn
from server.templates import TemplateProcess
from tests.server.front.house import Loop

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('who is ' + m.role) }}{% endif %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOKENS = {"bos_token": "<s>"}
TURNS = [Turn("user", " h\u00e9, \u2028 \U0001f600\n"), Turn("assistant", "ho")]
Render = Callable[..., str]


@pytest.fixture(scope="module")
def render(loop: Loop) -> Iterator[Render]:
    templates = TemplateProcess()

    def render_(template: str = TEMPLATE, turns: list[Turn] | None = None) -> str:
        return loop.run(templates.render(template, TOKENS, TURNS if turns is None else turns))

    yield render_
    templates.close()


def test_as_in_transformers(render: Render) -> None:
    messages = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    (expected,), _ = render_jinja_template(
        conversations=[messages], chat_template=TEMPLATE, add_generation_prompt=True, **TOKENS
    )
    assert render() == expected


def test_a_templates_own_refusal_is_told(render: Render) -> None:
    with pytest.raises(InvalidRequest, match="the adapter's chat template refuses it: who is system"):
        render(turns=[Turn("system", "x")])


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(500) }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 'x' | center(10 ** 10) }}",
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ 7 ** (7 ** (7 ** 7)) }}",
    ],
)
def test_bombs_cost_a_second_and_only_once(render: Render, template: str) -> None:
    with pytest.raises(InvalidRequest, match="the adapter's chat template refuses it"):
        render(template)
    began = time.process_time()
    with pytest.raises(InvalidRequest, match="the adapter's chat template refuses it"):
        render(template)
    assert time.process_time() - began < 1.0
    assert render().startswith("<s><user>")

"""Chat templates of strangers: they render as in transformers, and harm nobody where they do not."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from server.errors import InvalidRequest, NotReady
from server.requests import Turn
from server.strikes import MAX_STRIKES
from server.templates import Templates
from tests.server.front.house import Loop

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('who is ' + m.role) }}{% endif %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOKENS = {"bos_token": "<s>"}
TURNS = [Turn("user", " h\u00e9, \u2028 \U0001f600\n"), Turn("assistant", "ho")]
# Harmless over short conversations.
GREEDY = "{{ 'x' * 10 ** (messages[0].content | length) }}"
SHORT, LONG = [Turn("user", "a")], [Turn("user", "a" * 10)]
XS = "x" * 10
Render = Callable[..., str]


@pytest.fixture
def templates() -> Iterator[Templates]:
    # A busy machine may take as long as it wants to start the process.
    templates = Templates(patience=600.0)
    yield templates
    templates.close()


@pytest.fixture(scope="module")
def render(loop: Loop) -> Iterator[Render]:
    templates = Templates()

    def render_(template: str = TEMPLATE, turns: list[Turn] | None = None, tenant: str = "acme") -> str:
        return loop.run(templates.render(tenant, template, TOKENS, TURNS if turns is None else turns))

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


ENDLESS = "it takes more than 1 s"
TOO_LARGE = "it takes more memory than 768 MB"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", ENDLESS),
        ("{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(500) }}", ""),
        ("{{ 'x' * 10 ** 10 }}", TOO_LARGE),
        ("{{ 'x' | center(10 ** 10) }}", TOO_LARGE),
        (
            "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            TOO_LARGE,
        ),
        ("{{ 7 ** (7 ** (7 ** 7)) }}", ""),
    ],
)
def test_bombs_cost_their_own_request(render: Render, template: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the adapter's chat template refuses it: {why}"):
        render(template)
    assert render().startswith("<s><user>")


def test_what_takes_too_much_counts_against_its_tenant_and_template_alone(render: Render) -> None:
    for _ in range(MAX_STRIKES):
        assert render(GREEDY, SHORT) == XS
        with pytest.raises(InvalidRequest, match="for this conversation; send a shorter one"):
            render(GREEDY, LONG)
    with pytest.raises(InvalidRequest, match=f"for {MAX_STRIKES} conversations, and is tried again in"):
        render(GREEDY, SHORT)
    assert render(GREEDY, SHORT, tenant="other") == XS
    assert render().startswith("<s><user>")


def test_who_leaves_before_the_end_is_counted_too(templates: Templates, loop: Loop) -> None:
    async def scenario() -> None:
        asked = asyncio.create_task(templates.render("acme", GREEDY, TOKENS, LONG))
        # It has its turn.
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    loop.run(scenario())
    assert len(templates._bounded._strikes) == 1


def test_a_tenants_many_renderings_let_others_in(templates: Templates, loop: Loop) -> None:
    async def scenario() -> list[str]:
        ended: list[str] = []

        async def ask(tenant: str) -> None:
            await templates.render(tenant, GREEDY, TOKENS, SHORT)
            ended.append(tenant)

        # All ask while the first one's process starts.
        await asyncio.gather(*map(ask, ["flood", "flood", "flood", "acme", "flood", "other"]))
        return ended

    assert loop.run(scenario()) == ["flood", "flood", "acme", "other", "flood", "flood"]


def test_who_waits_too_long_behind_others_is_told_to_come_again(loop: Loop) -> None:
    templates = Templates(patience=0.0)

    async def scenario() -> None:
        first = asyncio.create_task(templates.render("flood", GREEDY, TOKENS, SHORT))
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="try again"):
            await templates.render("acme", GREEDY, TOKENS, SHORT)
        assert await first == XS

    loop.run(scenario())
    templates.close()

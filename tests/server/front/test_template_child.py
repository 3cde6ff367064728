"""The processes that render chat templates are lost: real ones, really killed."""

import asyncio
import fcntl
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import psutil
import pytest

from lorikeet.v1 import inference_pb2 as pb
from server.errors import InvalidRequest, NotReady
from server.limited_child import Child
from server.requests import Turn
from server.templates import Templates, start_child
from tests.server.front.house import House, refused
from tests.server.front.packs import chunks, header, pack, send

# Endless over long conversations.
TEMPLATE = (
    "<{{ messages[0].content }}>{% if messages[0].content | length > 9 %}"
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}{% endif %}"
)
SHORT, LONG = "a", "a" * 10
PIPE_BYTES = 65536
BROKEN = [
    ["/nonexistent"],
    [sys.executable, "-c", "raise SystemExit(1)"],
    [sys.executable, "-c", "print('{')"],
]
# Every rendering leaves more behind than it may.
WORN = "from server import template_process as process; process.WORN_ADDRESS_BYTES = 0; process.main()"


class Workshop:
    """Templates whose processes meet with mishaps as they are asked."""

    def __init__(self, start: Callable[[], Child] | None = None) -> None:
        self.started: list[Child] = []
        # What happens to whoever is asked next.
        self.mishaps: list[Callable[[Child], None]] = []
        self._start_child = start or partial(Fragile, self.mishaps)
        self.templates = Templates(self._start)

    @property
    def newest(self) -> Child:
        return self.started[-1]

    def render(self, content: str = SHORT, template: str = TEMPLATE) -> str:
        return asyncio.run(self.templates.render("acme", template, {}, [Turn("user", content)]))

    def _start(self) -> Child:
        self.started.append(self._start_child())
        return self.newest


class Fragile(Child):
    def __init__(self, mishaps: list[Callable[[Child], None]]) -> None:
        super().__init__("server.template_process")
        self._mishaps = mishaps

    def ask(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        if self._mishaps:
            self._mishaps.pop(0)(self)
        return super().ask(task, seconds)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.templates.close()
    assert not any(psutil.pid_exists(child.pid) for child in workshop.started)


def kill(child: Child) -> None:
    """All of it, as an operator would."""
    os.killpg(child.pid, signal.SIGKILL)


def kill_renderer(child: Child, number: int = signal.SIGKILL) -> None:
    """As the kernel does that is out of memory."""
    renderer(child).send_signal(number)


def stop_renderer(child: Child) -> None:
    child._patience = 0.05
    renderer(child).suspend()


def kill_busy_renderer(child: Child) -> None:
    """Once it has worked on what it is asked now."""
    threading.Thread(target=_kill_once_busy, args=(renderer(child),)).start()


def _kill_once_busy(process: psutil.Process) -> None:
    idle = process.cpu_times().user
    while process.cpu_times().user < idle + 0.1:
        assert psutil.wait_procs([process], timeout=0.01)[1], "it ended before"
    process.kill()


def kill_answering(child: Child) -> None:
    """Once its answer fills the pipe."""

    def read() -> dict[str, Any]:
        assert child._process.stdout is not None
        waiting = bytearray(4)
        while int.from_bytes(waiting, sys.byteorder) < PIPE_BYTES:
            fcntl.ioctl(child._process.stdout, termios.FIONREAD, waiting)
        kill(child)
        return Child._read(child)

    setattr(child, "_read", read)  # noqa: B010


def renderer(child: Child) -> psutil.Process:
    """Who renders, once there is one."""
    keeper = psutil.Process(child.pid)
    while not (children := keeper.children()):
        pass
    return children[0]


@pytest.mark.parametrize(
    "mishap",
    [kill, kill_renderer, partial(kill_renderer, number=signal.SIGTERM), stop_renderer, kill_answering],
)
def test_a_process_that_is_lost_is_replaced_and_the_conversation_is_rendered(
    workshop: Workshop, mishap: Callable[[Child], None]
) -> None:
    workshop.render()
    num_started = len(workshop.started)
    workshop.mishaps.append(mishap)
    content = "a" * 2 * PIPE_BYTES
    assert workshop.render(content, "{{ messages[0].content }}") == content
    assert len(workshop.started) == num_started + 1


@pytest.mark.parametrize("mishap", [kill, kill_renderer, partial(kill_renderer, number=signal.SIGABRT)])
def test_one_that_dies_with_nothing_to_do_is_replaced(
    workshop: Workshop, mishap: Callable[[Child], None]
) -> None:
    workshop.render()
    child, num_started = workshop.newest, len(workshop.started)
    mishap(child)
    while child.is_usable:
        pass
    assert workshop.render() == "<a>"
    assert len(workshop.started) == num_started + 1
    assert len(workshop.templates._bounded._strikes) == 0


def test_an_answer_to_what_was_asked_before_is_nobody_s(workshop: Workshop) -> None:
    """Who renders dies of what looks like its own doing, in the moment before it reads."""
    workshop.render()
    workshop.mishaps.append(partial(kill_renderer, number=signal.SIGABRT))
    with pytest.raises(InvalidRequest):
        workshop.render("old", "{{ messages[0].content }}")
    for content in ("new", "newer"):
        assert workshop.render(content, "{{ messages[0].content }}") == content


def test_killed_while_it_renders_no_template_is_at_fault(workshop: Workshop) -> None:
    num_strikes = len(workshop.templates._bounded._strikes)
    # As often as it is tried.
    workshop.mishaps += [kill_busy_renderer, kill_busy_renderer]
    with pytest.raises(NotReady, match="try again"):
        workshop.render(LONG)
    assert len(workshop.templates._bounded._strikes) == num_strikes
    assert workshop.render() == "<a>"


def test_its_own_limit_is_told_from_a_kill(workshop: Workshop) -> None:
    workshop.render()
    child, num_strikes = workshop.newest, len(workshop.templates._bounded._strikes)
    with pytest.raises(InvalidRequest, match="more than 1 s for this conversation"):
        workshop.render(LONG)
    assert len(workshop.templates._bounded._strikes) == num_strikes + 1
    assert workshop.render() == "<a>"
    assert workshop.newest is child, "who renders next is forked, which takes no time"


def test_one_renders_many(workshop: Workshop) -> None:
    """What it has compiled, it need not compile again."""
    workshop.render()
    pid = renderer(workshop.newest).pid
    for number in range(20):
        workshop.render(template=f"{{# {number} #}}{TEMPLATE}")
    assert renderer(workshop.newest).pid == pid


def test_who_is_worn_is_replaced() -> None:
    workshop = Workshop(partial(Child, "", command=[sys.executable, "-s", "-c", WORN]))
    pids = set()
    for _ in range(3):
        assert workshop.render() == "<a>"
        pids.add(renderer(workshop.newest).pid)
    assert len(pids) > 1 and len(workshop.started) == 1
    workshop.templates.close()


def test_one_that_cannot_be_started_is_no_template_s_fault(house: House) -> None:
    files = {**pack(), "chat_template.jinja": TEMPLATE.encode()}
    send(house, [header("own", files), *chunks(files)])
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="a")])
    request = pb.TokenizeRequest(adapter_id="own", chat=chat)
    templates = house.front._texts._templates
    for command in BROKEN:
        templates._bounded._start = partial(Child, "", command=command)
        refusal = refused(lambda: house.inference.Tokenize(request))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        assert refusal.retries
    templates._bounded._start = start_child
    assert house.inference.Tokenize(request).token_ids

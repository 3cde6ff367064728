"""`lorikeet demo`: the burst and its verdict against a scripted server; training is stood in for."""

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pytest

from lorikeet.cli import demo
from lorikeet.cli.burst import Question, Reply, Score, Skill, ask_all
from lorikeet.local import ServerEnded, serving


def score(adapter, base, count=10):
    replies = [
        Reply(Question(f"q{i}", "right"), "right" if i < base else "?", "right" if i < adapter else "?")
        for i in range(count)
    ]
    return Score("skill", replies)


@pytest.mark.parametrize(
    ("adapter", "base", "convincing"), [(10, 0, True), (9, 3, True), (8, 0, False), (10, 4, False)]
)
def test_a_skill_convinces_only_if_the_base_lacks_it(adapter, base, convincing):
    judged = score(adapter, base)
    assert (judged.adapter, judged.base) == (adapter / 10, base / 10)
    assert judged.is_convincing is convincing


def answers(server, wrong=()):
    """The base knows nothing; an adapter repeats the prompt in capitals, except where it is wrong."""

    def generate(request, context):
        prompt = request.chat.messages[0].content
        knows = request.adapter_id and request.adapter_id not in wrong
        return server.answer(prompt.upper() if knows else "no idea", " ")

    return generate


def skills(folder, counts=(("legal", 3), ("risk", 2))):
    return [
        Skill(name, folder, [Question(f"{name} {i}", f"{name} {i}".upper()) for i in range(count)])
        for name, count in counts
    ]


def test_the_burst_asks_base_and_every_skill_in_turns(server, client, tmp_path):
    server.inference.generate = answers(server)
    scores = ask_all(client, skills(tmp_path), ["legal@1", "risk@4"])
    assert [(s.skill, s.adapter, s.base, len(s.replies)) for s in scores] == [
        ("legal", 1.0, 0.0, 3),
        ("risk", 1.0, 0.0, 2),
    ]
    assert scores[1].replies[1] == Reply(Question("risk 1", "RISK 1"), "no idea", "RISK 1")
    sent = [(r.adapter_id, r.chat.messages[0].content) for r in server.inference.requests]
    expected = [(a, f"{n} {i}") for n, c in (("legal", 3), ("risk", 2)) for i in range(c) for a in ("", n)]
    assert sorted((a.partition("@")[0], q) for a, q in sent) == sorted(expected)
    assert all(r.sampling.temperature == 0 and r.sampling.max_new_tokens for r in server.inference.requests)


def test_the_burst_is_under_way_before_anything_is_read(server, client, tmp_path):
    all_here = Barrier(4)

    def generate(request, context):
        all_here.wait(server.patience)
        return server.answer("x")

    server.inference.generate = generate
    assert len(ask_all(client, skills(tmp_path, (("legal", 1), ("risk", 1))), ["legal@1", "risk@1"])) == 2


@pytest.fixture
def staged(server, monkeypatch, adapter_folder):
    """The demo with a scripted server in place of training and serving."""
    asked = SimpleNamespace(flags=None, prompts=None, waited=False)

    def build(root, prompts):
        asked.prompts = prompts
        return Path("base"), skills(adapter_folder)

    @contextmanager
    def serve(base, root, flags):
        asked.flags = flags
        process = SimpleNamespace(wait=lambda: setattr(asked, "waited", True))
        yield SimpleNamespace(
            target=server.target, require_alive=lambda: None, wait_ready=lambda client: None, process=process
        )

    monkeypatch.setattr(demo, "_build", build)
    monkeypatch.setattr(demo, "serving", serve)
    server.inference.generate = answers(server)
    return asked


def test_the_demo_shows_answers_side_by_side(run, staged, server):
    code, out, _ = run("demo", "--prompts", "3")
    assert code == 0
    assert "legal: 100% of 3 held-out prompts right with the adapter, 0% without" in out
    assert "risk: 100% of 2 held-out prompts" in out
    row = next(line for line in out.splitlines() if "legal 0" in line)
    assert row.index("legal 0") < row.index("no idea") < row.index("LEGAL 0")
    assert "every skill reached 90% with and below 40% without the adapter" in out
    assert [upload[0].header.name for upload in server.adapters.uploads] == ["legal", "risk"]
    assert (staged.prompts, staged.waited) == (3, False)


def test_a_weak_skill_fails_the_demo(run, staged, server):
    server.inference.generate = answers(server, wrong=("risk@1",))
    code, out, _ = run("demo")
    assert code == 1
    assert "risk did not reach 90%" in out


def test_keep_goes_on_serving_and_flags_are_passed_on(run, staged, server):
    code, out, _ = run("demo", "--keep", "--", "--quantization", "nf4")
    assert code == 0
    assert staged.waited
    assert staged.flags == ["--quantization", "nf4"]
    assert f"lorikeet generate --target {server.target} --adapter risk 'risk 0'" in out


def test_a_server_that_dies_at_once_shows_the_end_of_its_log(tmp_path):
    with serving(tmp_path / "base", tmp_path, ["--no-such-flag"]) as server:
        assert server.process.wait(60) == 2
        with pytest.raises(ServerEnded, match="(?s)exit code 2.*unrecognized arguments: --no-such-flag"):
            server.require_alive()


def test_the_server_process_does_not_outlive_the_block(tmp_path, monkeypatch):
    # Stands in for a server that is slow to start; `serving` must not wait for it to finish.
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    # Another server of this process's tests may be running.
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), serving(tmp_path / "base", tmp_path) as server:
        server.require_alive()
        os.kill(os.getpid(), signal.SIGTERM)
        server.process.wait(60)
    assert server.process.poll() is not None
    assert signal.getsignal(signal.SIGTERM) is before


def test_questions_are_read_from_the_held_out_rows(tmp_path):
    file = tmp_path / "heldout.jsonl"
    file.write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": "ü", "completion": "{}"}\n', encoding="utf-8"
    )
    assert demo.read_questions(file) == [Question("a", "b"), Question("ü", "{}")]


def test_build_only_serves_nothing(run, staged):
    code, _, _ = run("demo", "--build-only")
    assert (code, staged.flags) == (0, None)

"""`lorikeet demo`: train skills, serve them together, ask them all at once, and check the answers."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lorikeet.cli.burst import MAX_BASE_ACCURACY, MIN_SKILL_ACCURACY, Question, Score, Skill, ask_all
from lorikeet.cli.guard import require
from lorikeet.cli.show import print_table
from lorikeet.local import Serving, serving

SUMMARY = "train three small skills, serve them in one batch and check their answers"

_EXAMPLES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the demo lives, how much it asks, and what else the server is told."""
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(".lorikeet/demo"),
        metavar="DIR",
        help="holds base, skills and server log (default: %(default)s)",
    )
    parser.add_argument(
        "--prompts",
        type=_count,
        default=1000,
        metavar="N",
        help="held-out prompts per skill at most (default: all)",
    )
    parser.add_argument("--build-only", action="store_true", help="build base and skills, serve nothing")
    parser.add_argument("--keep", action="store_true", help="keep serving afterwards, until Ctrl-C")
    parser.add_argument("serve_flags", nargs="*", metavar="-- FLAGS", help="more flags for `lorikeet serve`")


def run(args: argparse.Namespace) -> int:
    """0 if every skill answers well and the base alone does not."""
    require("server", "adapters", "training")
    base, skills = _build(args.root, args.prompts)
    if args.build_only:
        return 0
    with serving(base, args.root, args.serve_flags) as server:
        scores = _ask(server, skills)
        _print_scores(scores)
        if args.keep:
            _keep(server, skills)
    return 0 if all(score.is_convincing for score in scores) else 1


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count of prompts")
    return int(text)


def _build(root: Path, num_prompts: int) -> tuple[Path, list[Skill]]:
    from rich.console import Console

    from training.demo.build import build_demo
    from training.progress import bars

    with bars(Console(stderr=True)) as report:
        built = build_demo(root, report)
    skills = [
        Skill(skill.name, skill.adapter_folder, read_questions(skill.heldout_file)[:num_prompts])
        for skill in built.skills
    ]
    return built.base, skills


def read_questions(file: Path) -> list[Question]:
    """The rows of a JSONL file with `prompt` and `completion`."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Question(row["prompt"], row["completion"]) for row in rows]


def _ask(server: Serving, skills: Sequence[Skill]) -> list[Score]:
    from lorikeet.client import Client

    with Client(server.target) as client:
        server.wait_ready(client)
        stored = [client.adapters.upload(skill.folder, skill.name) for skill in skills]
        return ask_all(client, skills, [version.id for version in stored])


def _print_scores(scores: Sequence[Score]) -> None:
    for score in scores:
        title = (
            f"{score.skill}: {score.adapter:.0%} of {len(score.replies)} held-out prompts right "
            f"with the adapter, {score.base:.0%} without"
        )
        rows = [(r.question.prompt, r.base, r.adapter, r.question.answer) for r in score.replies[:_EXAMPLES]]
        print_table(("prompt", "base", f"base + {score.skill}", "expected"), rows, title)
    weak = [score.skill for score in scores if not score.is_convincing]
    wanted = f"{MIN_SKILL_ACCURACY:.0%} with and below {MAX_BASE_ACCURACY:.0%} without the adapter"
    print(f"{', '.join(weak)} did not reach {wanted}" if weak else f"every skill reached {wanted}")


def _keep(server: Serving, skills: Sequence[Skill]) -> None:
    print(f"serving at {server.target}; Ctrl-C ends it. Try:")
    for skill in skills:
        prompt = skill.questions[0].prompt
        print(f"  lorikeet generate --target {server.target} --adapter {skill.name} {prompt!r}")
    sys.stdout.flush()
    server.process.wait()
    server.require_alive()

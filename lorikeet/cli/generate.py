"""`lorikeet generate`: one answer, printed as it comes."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin, get_type_hints

from lorikeet.cli.command import UsageError
from lorikeet.cli.connect import add_target, connect

if TYPE_CHECKING:
    from lorikeet.client import Client
    from lorikeet.generation import Generation
    from lorikeet.sampling import Prompt, Sampling
    from lorikeet.types import Result, Usage

SUMMARY = "generate from a prompt, with the base or an adapter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, how to send it, and one flag for each sampling option."""
    parser.add_argument("prompt", metavar="PROMPT", help="text, or - to read it from standard input")
    parser.add_argument("--adapter", default="", metavar="ID", help="`name`, `name@3` or `name@alias`")
    parser.add_argument(
        "--session", default="", metavar="ID", help="requests of one session get the same version of an alias"
    )
    add_target(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--chat", action="store_true", help="send as a user's message")
    form.add_argument("--raw", action="store_true", help="send as text to continue (default: ask the model)")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON at the end")
    parser.add_argument("--verbose", action="store_true", help="print usage to standard error")
    _add_sampling_flags(parser.add_argument_group("sampling"))


def run(args: argparse.Namespace) -> int:
    """Prints the answer; --json waits for the whole."""
    text = _read_prompt(args.prompt)
    with connect(args) as client:
        prompt = _shape(client, text, args)
        with client.generate(
            prompt, adapter=args.adapter, session=args.session, **_sampling(args)
        ) as generation:
            _print(generation, args)
            if args.verbose:
                _print_usage(generation.result())
    return 0


def _add_sampling_flags(parser: "argparse._ArgumentGroup") -> None:
    for name, (kind, repeated, text) in _options().items():
        flag = "--" + name.replace("_", "-")
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            parser.add_argument(flag, action="store_true", **options)
        else:
            metavar = {int: "N", float: "X", str: "TEXT"}[kind]
            action = "append" if repeated else "store"
            parser.add_argument(flag, type=kind, action=action, metavar=metavar, **options)


def _options() -> dict[str, tuple[type[Any], bool, str]]:
    """Type, whether it may be given several times, and help of each sampling option."""
    from lorikeet.sampling import Sampling

    found = {}
    for name, annotated in get_type_hints(Sampling, include_extras=True).items():
        hint, text = get_args(annotated)
        kinds = get_args(hint)
        elements = [get_args(kind)[0] for kind in kinds if get_origin(kind) is Sequence]
        found[name] = (elements[0] if elements else kinds[0], bool(elements), text)
    return found


def _sampling(args: argparse.Namespace) -> "Sampling":
    given = {name: getattr(args, name) for name in _options() if hasattr(args, name)}
    return cast("Sampling", given)


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    # The newline that ends the last line of a file or an echo is not part of the question.
    text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise UsageError("standard input is empty")
    return text


def _shape(client: "Client", text: str, args: argparse.Namespace) -> "Prompt":
    if args.raw or not (args.chat or client.model().has_chat_template):
        return text
    return [{"role": "user", "content": text}]


def _print(generation: "Generation", args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(asdict(generation.result()), ensure_ascii=False, indent=2))
    elif getattr(args, "n", 1) > 1:
        for index, sample in enumerate(generation.result().samples):
            print(f"--- sample {index}\n{sample.text}")
    else:
        _stream(generation)


def _stream(generation: "Generation") -> None:
    begun = False
    try:
        for text in generation:
            begun = True
            print(text, end="", flush=True)
    finally:
        # Before an error's sentence as well, if that would continue a line.
        if begun:
            print()


def _print_usage(result: "Result") -> None:
    usages = [sample.usage for sample in result.samples]
    print("\n".join(_usage_line(result, usage) for usage in usages), file=sys.stderr)


def _usage_line(result: "Result", usage: "Usage") -> str:
    decoding = usage.total_seconds - usage.first_token_seconds
    rate = f", {(usage.completion_tokens - 1) / decoding:.1f} tokens/s" if decoding > 0 else ""
    return (
        f"{result.adapter_version or 'base'}: {usage.prompt_tokens} prompt tokens "
        f"({usage.cached_tokens} cached), {usage.completion_tokens} new; "
        f"first after {usage.first_token_seconds:.3f} s, all after {usage.total_seconds:.3f} s{rate}"
    )

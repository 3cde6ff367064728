"""`python tests/fuzzing/fuzz.py TARGET LIMIT CORPUS`: guided by coverage, until the unexpected is raised.

Ends with 0 at the limit, as `runs=20000` or, in seconds, `max_total_time=3600`; with another code at the
first input that raises anything but the refusal that the target documents, takes longer than 5 seconds, or
has the process need more than 2 GiB. The input is left in the corpus's folder.
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["adapters", "server"]):
    from adapters.errors import InvalidAdapter
    from adapters.header import parse_header
    from adapters.kinds import KINDS
    from adapters.peft_config import parse_config
    from server.checks import check
    from server.errors import InvalidRequest
    from server.requests import Limits
    from server.wire import params_of

from google.protobuf.message import DecodeError

from lorikeet.v1 import inference_pb2 as pb

LIMITS = Limits(vocab_size=1000, max_tokens=256)
LINEARS = ["q_proj", "v_proj"]


def header(data: bytes) -> None:
    try:
        tensors = parse_header(data, len(data))
    except InvalidAdapter as refusal:
        assert refusal.problems
        return
    spans = sorted((tensor.start, tensor.end) for tensor in tensors.values())
    assert all(0 <= start <= end <= len(data) for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False)), "shared bytes"


def config(data: bytes) -> None:
    try:
        parsed = parse_config(data, max_rank=64)
    except InvalidAdapter as refusal:
        assert refusal.problems
        return
    assert KINDS[json.loads(data)["peft_type"]] is parsed.kind


def request(data: bytes) -> None:
    try:
        check(params_of(pb.GenerateRequest.FromString(data), longest=64), LIMITS)
    except (DecodeError, InvalidRequest):
        return


def broken(data: bytes) -> None:
    """To see that the fuzzer sees."""
    assert len(data) < 3 or data[2:3] != b"\0"


def seeds() -> dict[str, list[bytes]]:
    """Good inputs, from which all others are bred."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"__metadata__": {"format": "pt"}, "a": entry}).encode()
    lora = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": LINEARS,
        "rank_pattern": {"q_proj": 4},
    }
    others = [
        {"peft_type": kind, "target_modules": LINEARS} for kind in ("IA3", "VERA", "LOHA", "LOKR", "MISS")
    ]
    whole = pb.GenerateRequest(
        adapter_id="law@2", prompt="a b", sampling=pb.Sampling(stop=["x"], seed=3, n=2)
    )
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="a")])
    return {
        "header": [len(text).to_bytes(8, "little") + text + bytes(8)],
        "config": [json.dumps(each).encode() for each in (lora, *others)],
        "broken": [b"abcdef"],
        "request": [whole.SerializeToString(), pb.GenerateRequest(chat=chat).SerializeToString()],
    }


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (header, config, request, broken)
}


def main(target: str, limit: str, corpus: str) -> None:
    folder = Path(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()[target]):
        TARGETS[target](seed)
        (folder / f"seed-{number}").write_bytes(seed)
    # The fuzzer's own limit looks at a peak that comes with the process that started this one.
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    limits = ["-seed=1", "-max_len=4096", "-timeout=5", "-rss_limit_mb=0", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], f"-{limit}", *limits, str(folder)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])

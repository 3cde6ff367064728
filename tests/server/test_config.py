from typing import Any

import pytest

from lorikeet.cli.main import main
from server.config import ServerConfig

BAD: list[tuple[dict[str, Any], str]] = [
    ({"quantization": "fp4"}, "quantization 'fp4' is none of none, nf4, int8"),
    ({"dtype": "float8"}, "dtype 'float8' is none of auto, float32"),
    ({"port": 99999}, "port 99999 must be from 0 to 65535"),
    ({"block_size": 0}, "block_size 0 must be at least 1"),
    ({"queue_limit": -5}, "queue_limit -5 must be at least 1"),
    ({"stream_interval": -0.1}, "stream_interval -0.1 must be at least 0"),
    ({"cache_tokens": -1}, "cache_tokens -1 must be at least 0"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_what_cannot_be_is_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ServerConfig(base="x", **options)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="block_size.*port"):
        ServerConfig(base="x", port=-1, block_size=0)


def test_the_command_line_calls_it_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--base", "x", "--port", "99999"]) == 2
    assert "must be from 0 to 65535" in capsys.readouterr().err

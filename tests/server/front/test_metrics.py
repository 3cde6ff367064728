"""What a scrape over real HTTP holds."""

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from lorikeet.v1 import inference_pb2 as pb
from server.text import Text
from tests.server.front.house import STATS, House, Open, script

ROOT = Path(__file__).parents[3]
Labels = dict[str, str]


@pytest.fixture
def open_(open_house: Open) -> Any:
    return lambda **options: open_house(metrics_port=0, **options)


def families(house: House) -> list[Metric]:
    url = f"http://127.0.0.1:{house.front.metrics_port}/metrics"
    with urllib.request.urlopen(url) as response:
        return list(text_string_to_metric_families(response.read().decode()))


def scrape(house: House) -> dict[str, list[tuple[Labels, float]]]:
    found: dict[str, list[tuple[Labels, float]]] = {}
    for family in families(house):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(found: Any, name: str, **labels: str) -> float:
    (match,) = [number for at, number in found[f"lorikeet:{name}"] if labels.items() <= at.items()]
    return float(match)


def test_requests_are_counted(open_: Any, text: Text) -> None:
    house = open_()
    house.link.script = script(text, "the cat sat")
    num_tokens = house.generate("hello world", n=2)[-1].finished.usage.completion_tokens
    with pytest.raises(grpc.RpcError):
        house.generate("")
    house.loop.until(lambda: house.front._generating.num_live == 0)
    found = scrape(house)
    assert value(found, "requests_total", outcome="ok") == 1
    assert value(found, "requests_total", outcome="invalid_argument") == 1
    assert value(found, "samples_total", reason="length") == 2
    assert value(found, "prompt_tokens_total") == len(text.encode("hello world"))
    assert value(found, "generation_tokens_total") == 2 * num_tokens
    for name in ("time_to_first_token_seconds", "queue_seconds", "adapter_wait_seconds"):
        assert value(found, f"{name}_count") == 2
    assert value(found, "queue_seconds_sum") == 0.5
    assert value(found, "request_latency_seconds_count") == 2
    assert value(found, "inter_token_latency_seconds_count") > 0
    assert value(found, "live_sequences") == 0


def test_the_engine_is_read_at_the_scrape(open_: Any) -> None:
    house = open_()
    found = scrape(house)
    expected = {
        "num_requests_running": 2,
        "num_requests_waiting": 3,
        "kv_cache_usage_perc": 0.25,
        "adapters_resident": 2,
        "steps_total": 7,
        "tokens_computed_total": 70,
        "preemptions_total": 1,
        "prefix_cache_queries_total": 50,
        "prefix_cache_hits_total": 20,
        "adapter_loads_total": 4,
        "adapter_load_seconds_total": 0.25,
        "adapter_evictions_total": 2,
        "engine_up": 1,
    }
    assert {name: value(found, name) for name in expected} == expected
    ((labels, when),) = found["lorikeet:lora_requests_info"]
    assert labels == {"max_lora": "8", "running_lora_adapters": "d1,d2", "waiting_lora_adapters": "d3"}
    assert abs(when - time.time()) < 60
    assert not [name for name in found if name.startswith("vllm")]
    house.link.stats = msgspec.structs.replace(STATS, running=9)
    assert value(scrape(house), "num_requests_running") == 9


def test_names_that_gateways_know(open_: Any) -> None:
    found = scrape(open_(vllm_metrics=True))
    assert found["vllm:num_requests_running"] == [({}, 2)]
    assert found["vllm:num_requests_waiting"] == [({}, 3)]
    assert found["vllm:kv_cache_usage_perc"] == [({}, 0.25)]
    assert found["vllm:cache_config_info"] == [({"block_size": "4", "num_gpu_blocks": "100"}, 1)]
    assert found["vllm:lora_requests_info"][0][0]["running_lora_adapters"] == "d1,d2"


def test_an_engine_that_loads(open_: Any) -> None:
    found = scrape(open_(ready=False))
    assert value(found, "engine_up") == 0
    assert "lorikeet:num_requests_running" not in found


def test_adapters_never_become_labels(open_: Any) -> None:
    house = open_()
    for index in range(20):
        with pytest.raises(grpc.RpcError):
            list(house.inference.Generate(pb.GenerateRequest(prompt="x", adapter_id=f"adapter-{index}")))
    samples = [at for name, each in scrape(house).items() if "info" not in name for at, _ in each]
    assert not [labels for labels in samples if any("adapter-" in label for label in labels.values())]


def test_every_metric_that_the_docs_name_is_there(open_: Any) -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {name for page in pages for name in re.findall(r"`(lorikeet:\w+)`", page.read_text())}
    assert len(named) > 20
    assert {name.removesuffix("_total") for name in named} <= {family.name for family in families(open_())}

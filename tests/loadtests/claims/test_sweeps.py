"""What is compared, and by which ranks."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from loadtests.claims.scale import SCALES
from loadtests.claims.sweeps import FULL, of_batches, of_places, of_ranks
from training.artifact import linear_shapes
from training.model import Model

SMALL = SCALES["small"]


@pytest.fixture(scope="module")
def base() -> Model:
    """Of the small bench's shape."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=64, intermediate_size=128, **heads))


def test_placements_cost_equally_many_parameters(base: Model) -> None:
    costs = {}
    for subject in {run.subject for run in of_places(SMALL, base)}:
        shapes = [
            shape for name, shape in linear_shapes(base).items() if name.rpartition(".")[2] in subject.targets
        ]
        costs[subject.name] = subject.rank * sum(rows + width for rows, width in shapes)
    assert costs.keys() == {"all linears", "MLP", "attention", "q and v"}
    assert max(costs.values()) < 1.2 * min(costs.values())


def test_every_subject_meets_every_rate_with_every_seed() -> None:
    runs = of_ranks(SMALL)
    assert len(set(runs)) == len(runs) == (1 + len(SMALL.ranks)) * len(SMALL.rates) * SMALL.seeds
    assert {run.batch for run in runs} == {SMALL.batch}
    assert {run.subject.rank for run in runs} == {0, *SMALL.ranks}


def test_batches_are_compared_for_both_ways_to_train() -> None:
    runs = of_batches(SMALL)
    assert {run.batch for run in runs} == set(SMALL.batches)
    assert {run.subject == FULL for run in runs} == {True, False}

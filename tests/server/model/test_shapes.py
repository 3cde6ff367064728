"""What the server says of a base is what transformers makes of it."""

import pytest

from server.model.config import ModelConfig
from server.model.shapes import base_shapes
from tests.dense import base_of
from tests.toys import FAMILIES, make_model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_shapes_are_those_of_the_model(family: str, tied: bool) -> None:
    model = make_model(family, tie_word_embeddings=tied)
    expected = base_of(model).shapes
    found = base_shapes(ModelConfig.from_hf(model.config), "0" * 64, "none")
    assert found == expected


def test_biases_where_the_configuration_has_them() -> None:
    model = make_model("llama", attention_bias=True, mlp_bias=True)
    shapes = base_shapes(ModelConfig.from_hf(model.config))
    assert shapes.biases == set(shapes.linears) == base_of(model).shapes.biases

"""Putting a model on the fast way changes that model alone."""

import sys
from types import ModuleType

import pytest

from tests.toys import make_model
from training.fast import install


def test_what_another_library_puts_into_a_module_is_taken_out_again() -> None:
    module = ModuleType("modeling")
    module.Norm = own = object()  # type: ignore[attr-defined]
    with install._kept(module):
        module.Norm = object()  # type: ignore[attr-defined]
    assert module.Norm is own


def test_other_models_keep_their_classes() -> None:
    """With the library itself, where it is installed."""
    pytest.importorskip("liger_kernel")
    model = make_model("qwen3")
    modeling = sys.modules[type(model).__module__]
    before = dict(vars(modeling))
    install._use_liger(model)
    assert dict(vars(modeling)) == before
    assert "Liger" in model.model.norm.forward.__func__.__module__.title()

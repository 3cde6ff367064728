"""The routes' order on a base and adapters that have learned something, losses and all."""

from dataclasses import replace
from pathlib import Path

from loadtests.merge_routes import BASE, SKILL, measure
from training.demo.pretrain import Schedule


def test_the_base_as_trained_is_the_one_to_merge_into(tmp_path: Path) -> None:
    schedule = Schedule(num_steps=120, batch_size=8, row_length=64)
    recipe = replace(BASE, num_documents=1200, schedule=schedule)
    skill = replace(SKILL, num_train=256, num_heldout=64, epochs=4.0)
    routes = {(route.trained_on, route.name): route for route in measure(tmp_path, recipe, skill)}
    loss = {key: route.loss for key, route in routes.items()}
    for trained_on, right, wrong in (("nf4", "deq + D", "W + D"), ("none", "W + D", "deq + D")):
        live, alone = loss[trained_on, "not merged, as trained"], loss[trained_on, "base alone, as trained"]
        assert live < 0.5 * alone, "the adapter has learned"
        assert abs(loss[trained_on, f"{right}, float32"] - live) < 1e-4
        assert abs(loss[trained_on, f"{right}, bfloat16"] - live) < 0.01
        # The error that training had corrected, or never met, is back.
        assert loss[trained_on, f"{wrong}, float32"] > live + 1e-3
        assert loss[trained_on, f"nf4({wrong})"] > live + 1e-3
    rounded = routes["nf4", "nf4(deq + D)"]
    assert rounded.loss > loss["nf4", "deq + D, float32"] + 1e-3
    assert rounded.unchanged is not None and 0 < rounded.unchanged < 1
    assert abs(loss["nf4", "int8(deq + D)"] - loss["nf4", "deq + D, float32"]) < 0.01

"""How much of a prompt a step takes."""

import pytest

from server.engine.scheduler import MIXED_TOKENS
from tests.server.engine.test_fairness import World


def tokens_of_a_step(world: World) -> int:
    chosen = world.scheduler.schedule()
    world.scheduler.begin(chosen)
    return sum(choice.num_tokens for choice in chosen)


@pytest.mark.parametrize(("step_tokens", "beside_answers"), [(4096, MIXED_TOKENS), (128, 128)])
def test_prompts_come_in_smaller_pieces_where_answers_go_on(step_tokens: int, beside_answers: int) -> None:
    world = World(step_tokens=step_tokens)
    world.ask("talks", prompt=20, answer=50)
    world.step()
    world.ask("reads", prompt=3000)
    assert tokens_of_a_step(world) == beside_answers


def test_prompts_alone_come_as_large_as_a_step_is() -> None:
    world = World(step_tokens=4096)
    world.ask("reads", prompt=3000)
    assert tokens_of_a_step(world) == 3000

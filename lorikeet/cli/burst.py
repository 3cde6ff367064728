"""One burst over base and adapters at once, and how well each answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorikeet.client import Client
    from lorikeet.generation import Generation

MIN_SKILL_ACCURACY = 0.9
MAX_BASE_ACCURACY = 0.4
_MAX_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Question:
    """A held-out prompt and the one right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Skill:
    """A trained adapter and what to ask it."""

    name: str
    folder: Path
    questions: Sequence[Question]


@dataclass(frozen=True)
class Reply:
    """What base and adapter made of one question."""

    question: Question
    base: str
    adapter: str


@dataclass(frozen=True)
class Score:
    """All replies of one skill."""

    skill: str
    replies: Sequence[Reply]

    @property
    def base(self) -> float:
        """Share of the questions that the base answers right."""
        return self._share([reply.base for reply in self.replies])

    @property
    def adapter(self) -> float:
        """Share of the questions that the adapter answers right."""
        return self._share([reply.adapter for reply in self.replies])

    @property
    def is_convincing(self) -> bool:
        """Whether the adapter has the skill and the base has not."""
        return self.adapter >= MIN_SKILL_ACCURACY and self.base < MAX_BASE_ACCURACY

    def _share(self, answers: Sequence[str]) -> float:
        right = [a == reply.question.answer for a, reply in zip(answers, self.replies, strict=True)]
        return sum(right) / len(right)


def ask_all(client: "Client", skills: Sequence[Skill], adapter_ids: Sequence[str]) -> list[Score]:
    """Sends every question to the base and to its skill's adapter, all at once, then reads the answers."""
    rounds = range(max(len(skill.questions) for skill in skills))
    # Round by round, so that neighbours in the server's queue want different adapters.
    running = {
        (skill.name, i): (_ask(client, skill.questions[i], ""), _ask(client, skill.questions[i], adapter_id))
        for i in rounds
        for skill, adapter_id in zip(skills, adapter_ids, strict=True)
        if i < len(skill.questions)
    }
    replies = {key: (base.text().strip(), adapter.text().strip()) for key, (base, adapter) in running.items()}
    return [
        Score(skill.name, [Reply(q, *replies[skill.name, i]) for i, q in enumerate(skill.questions)])
        for skill in skills
    ]


def _ask(client: "Client", question: Question, adapter: str) -> "Generation":
    turns = [{"role": "user", "content": question.prompt}]
    return client.generate(turns, adapter=adapter, temperature=0, max_new_tokens=_MAX_ANSWER_TOKENS)

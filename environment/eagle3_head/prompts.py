"""The prompts whose answers train and judge the head: templates of prompts.toml, filled in by a fixed random order.

Four groups are held out. No held-out question is asked in training, and except for the first group their topics don't
occur there either:
- `trained topics`: new questions on topics that occur in training,
- `held-out topics`: topics, and tasks of everyday life, that never occur in training,
- `repetition`: answers that mostly repeat their prompt, a text on held-out topics,
- `code`: functions that are never asked for in training.
"""

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.course.speculation.eagle3.training_text import GROUPS

HELD_OUT = 60  # prompts a group
TEMPERATURES = (0.0, 0.0, 0.0, 0.7, 1.0)  # of the training answers; held-out answers are greedy
SHARES = {"trained topics": 0.68, "repetition": 0.17, "code": 0.15}  # of the training prompts


@dataclass(frozen=True)
class Prompt:
    """One question, with the group that its answer belongs to."""

    group: str
    held_out: bool
    question: str
    temperature: float


class Templates:
    """The lists of prompts.toml, and questions made of them."""

    def __init__(self, draw: random.Random) -> None:
        stored = tomllib.loads((Path(__file__).parent / "prompts.toml").read_text())
        lines = ("questions", "habit_questions", "code_questions", "copy_questions", "sentences")
        self.lists: dict[str, list[str]] = {
            name: text.strip().split("\n") if name in lines else text.strip().replace("\n", " | ").split(" | ")
            for name, text in stored.items()
        }
        self.draw = draw

    def fill(self, template: str, topics: str) -> str:
        x, y = self.draw.sample(self.lists[topics], 2)
        return template.format(x=x, y=y, n=self.draw.choice((3, 4, 5, 6, 7, 8, 10)), year=self.draw.randint(1950, 2020))

    def question(self, group: str, unseen: bool) -> str:
        """One random question of a group; `unseen` takes the held-out topics, tasks and functions."""
        held, pick = "held_out_" if unseen else "", self.draw.choice
        if group == "code":
            return pick(self.lists["code_questions"]).format(f=pick(self.lists[f"{held}functions"]))
        if group == "repetition":
            sentences = self.draw.sample(self.lists["sentences"], self.draw.choice((3, 4, 5, 6, 7)))
            text = " ".join(self.fill(sentence, f"{held}topics") for sentence in sentences)
            return pick(self.lists["copy_questions"]).replace("\\n", "\n").replace("{text}", text)
        if self.draw.random() < 0.06:
            return pick(self.lists["habit_questions"]).format(h=pick(self.lists[f"{held}habits"]))
        return self.fill(pick(self.lists["questions"]), f"{held}topics")


def prompts() -> Iterator[Prompt]:
    """All prompts in their fixed order: the held-out ones, then training prompts without end, no two the same."""
    templates = Templates(random.Random(334))
    held, asked = set[str](), set[tuple[str, float]]()
    while len(held) < HELD_OUT * len(GROUPS):
        group = GROUPS[len(held) % len(GROUPS)]
        question = templates.question(group, unseen=group != "trained topics")
        if question not in held:
            held.add(question)
            yield Prompt(group, True, question, 0.0)
    while True:
        [group] = templates.draw.choices(list(SHARES), list(SHARES.values()))
        question, temperature = templates.question(group, unseen=False), templates.draw.choice(TEMPERATURES)
        if question not in held and (question, temperature) not in asked:
            asked.add((question, temperature))
            yield Prompt(group, False, question, temperature)

"""The questions that lab 3.3.4 asks: held out from the head's training, and asked exactly as in it.

An answer has a set number of tokens, exactly. Only questions to which the small model itself wrote at least so many are
asked. With the end-of-text token suppressed, a shorter answer would run into repetitions, and those are easy to draft.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from shared.course.speculation.eagle3 import training_text
from shared.course.speculation.eagle3.training_text import GROUPS
from shared.errors import LabError
from shared.load import prompts
from shared.load.prompts import PromptSet, chat
from shared.models import choice

HELD_OUT, COPYING = GROUPS[1:3]  # the group of all questions where nothing else is said; answers that copy their prompt


@dataclass(frozen=True)
class Questions(PromptSet):
    """Held-out questions of one group, in their order, the first at place `first`. Each is asked as it stands."""

    first: int = 0

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        for number in range(self.first, self.first + 10**9):
            yield chat(self.model, self.questions[number % len(self.questions)])


@cache
def questions_of(group: str, tokens: int) -> tuple[str, ...]:
    """The held-out questions of a group to which the model wrote at least `tokens` tokens (greedily).

    Raises LabError if there is none.
    """
    text = training_text.load(training_text.FILE)
    rows = [row for row in text.rows(True, group) if len(text.answer(row)) >= tokens and text.temperatures[row] == 0]
    if not rows:
        raise LabError(f"No answer of the group {group!r} has {tokens} tokens.", "ask for shorter answers")
    tokenizer = prompts.tokenizer(choice.small().folder / "hf")
    chats = (tokenizer.decode(text.row(row)[: text.prompt_tokens[row]]) for row in rows)
    return tuple(one.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0] for one in chats)

"""The text that a head learns from, as token ids: prompts, and the answers that the model itself wrote.

One compressed file holds all of it (FILE, made by `write_text` and `train_head` in its folder).
Each row is one chat: the tokens of its prompt in the model's template, then those of the answer. Only the answers are
learned. Held-out rows are never trained on: they judge the head, group by group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared import paths
from shared.errors import LabError

FILE = paths.REPO / "environment" / "eagle3_head" / "text.npz"
GROUPS = ("trained topics", "held-out topics", "repetition", "code")


@dataclass(frozen=True)
class TrainingText:
    """All rows, one behind another in `tokens`."""

    tokens: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]  # [rows + 1]: row i is tokens[starts[i] : starts[i + 1]]
    numbers: npt.NDArray[np.int32]  # [rows]: the number of the row's prompt in the order of prompts.py
    prompt_tokens: npt.NDArray[np.uint16]  # [rows]: how many of a row's tokens are its prompt
    groups: npt.NDArray[np.uint8]  # [rows]: index into GROUPS
    held_out: npt.NDArray[np.bool_]  # [rows]
    temperatures: npt.NDArray[np.float32]  # [rows]: at which the answer was sampled; 0 is greedy

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def row(self, number: int) -> npt.NDArray[np.int64]:
        """The token ids of one row, prompt and answer."""
        return self.tokens[self.starts[number] : self.starts[number + 1]].astype(np.int64)

    def answer(self, number: int) -> npt.NDArray[np.int64]:
        """The token ids of one answer."""
        return self.row(number)[self.prompt_tokens[number] :]

    def answers(self, rows: Sequence[int]) -> npt.NDArray[np.uint16]:
        """The token ids of these rows' answers, one behind another."""
        return np.concatenate([self.tokens[self.starts[r] + self.prompt_tokens[r] : self.starts[r + 1]] for r in rows])

    def rows(self, held_out: bool, group: str | None = None) -> list[int]:
        """The numbers of the held-out rows or of the training rows, of one group or of all."""
        chosen = self.held_out == held_out
        if group is not None:
            chosen = chosen & (self.groups == GROUPS.index(group))
        return [int(number) for number in np.flatnonzero(chosen)]

    def answer_tokens(self, rows: Sequence[int]) -> int:
        """The number of tokens in the answers of these rows."""
        lengths = np.diff(self.starts) - self.prompt_tokens
        return int(lengths[list(rows)].sum())

    def save(self, file: Path) -> None:
        np.savez_compressed(file, **vars(self))


def load(file: Path) -> TrainingText:
    """Read the file. Raises LabError if it is missing or its parts don't belong together."""
    fix = f"git checkout {file.name}, or write the text again: python -m environment.eagle3_head.write_text"
    try:
        with np.load(file, allow_pickle=False) as stored:
            text = TrainingText(**stored)
    except (OSError, ValueError, TypeError) as e:
        raise LabError(f"The training text {file.name} can't be read: {e}.", fix) from None
    rows, lengths = len(text), np.diff(text.starts)
    same = all(len(part) == rows for part in (lengths, text.numbers, text.groups, text.held_out, text.temperatures))
    if not same or text.starts[-1] != len(text.tokens) or (lengths <= text.prompt_tokens).any():
        raise LabError(f"The training text {file.name} is damaged: its parts don't belong together.", fix)
    return text


def pack(answers: Sequence[Mapping[str, Any]], earlier: TrainingText | None = None) -> TrainingText:
    """The rows of `write_text`'s answers. Answers without a token are left out.

    Rows of an earlier text come first and keep their place, so what was computed for them stays valid. Answers that it
    already holds are passed over. Raises LabError if there is no row at all.
    """
    known = set() if earlier is None else set(earlier.numbers.tolist())
    new = [answer for answer in answers if answer["answer"] and answer["number"] not in known]
    if not new:
        if earlier is None:
            raise LabError("There are no answers to learn from.", "python -m environment.eagle3_head.write_text")
        return earlier
    rows = [[*answer["prompt"], *answer["answer"]] for answer in new]
    added = TrainingText(
        tokens=np.concatenate([np.array(row, np.uint16) for row in rows]),
        starts=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        numbers=np.array([answer["number"] for answer in new], np.int32),
        prompt_tokens=np.array([len(answer["prompt"]) for answer in new], np.uint16),
        groups=np.array([GROUPS.index(answer["group"]) for answer in new], np.uint8),
        held_out=np.array([answer["held_out"] for answer in new], bool),
        temperatures=np.array([answer["temperature"] for answer in new], np.float32),
    )
    if earlier is None:
        return added
    joined = {name: np.concatenate([part, vars(added)[name]]) for name, part in vars(earlier).items()}
    joined["starts"] = np.concatenate([earlier.starts, earlier.starts[-1] + added.starts[1:]])
    return TrainingText(**joined)

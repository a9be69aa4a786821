"""How often a head's guesses are right, on text that it never saw.

Held-out answers are greedy: each of their tokens is the model's most likely one, which an engine accepts at temperature
0. So a guess is right if it is the text's next token. A token outside the draft vocabulary is never guessed, and counts
as wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.target_states import TargetStates
from shared.course.speculation.eagle3.training import batch_of, precision
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.course.speculation.eagle3.training_time_test import shifted, unroll


@dataclass(frozen=True)
class Acceptance:
    """Shares of right guesses over `positions` positions, for guesses 1, 2, …"""

    positions: int
    each: tuple[float, ...]  # of guess k, when all tokens before it are given
    first: tuple[float, ...]  # guesses 1 to k all right: what an engine accepts at position k of a draft

    def tokens_per_pass(self, drafts: int) -> float:
        """Expected tokens of one verification with so many drafts: the accepted ones, and the model's own."""
        return 1 + sum(self.first[:drafts])


def together(parts: Sequence[Acceptance]) -> Acceptance:
    """The shares over the positions of all parts."""
    positions = sum(part.positions for part in parts)

    def share(of: Sequence[Sequence[float]]) -> tuple[float, ...]:
        weighted = [[value * part.positions for value in one] for one, part in zip(of, parts, strict=True)]
        return tuple(sum(column) / positions for column in zip(*weighted, strict=True))

    return Acceptance(positions, share([part.each for part in parts]), share([part.first for part in parts]))


@torch.inference_mode()  # type: ignore[untyped-decorator]
def measure(
    head: Eagle3Head, embedding: Tensor, text: TrainingText, states: TargetStates, rows: Sequence[int], steps: int = 5
) -> Acceptance:
    """The acceptance over these rows, at each position from which `steps` further tokens of the answer follow."""
    each, first = torch.zeros(steps), torch.zeros(steps)
    positions, embedding = 0, embedding.float()
    for begin in range(0, len(rows), 8):
        batch = batch_of(text, states, rows[begin : begin + 8])
        features = batch.states[..., : 3 * head.shape.hidden]
        asked = batch.learned & shifted(batch.learned, steps)
        alive = torch.ones(int(asked.sum()), dtype=torch.bool)
        positions += len(alive)
        with precision():
            for step, h in enumerate(unroll(head, embedding, batch.ids, features, steps)):
                guess = head.draft_tokens[head.logits(h[asked]).argmax(-1)]
                right = guess == shifted(batch.ids, 2 + step)[asked]
                alive &= right
                each[step] += right.sum()
                first[step] += alive.sum()
    return Acceptance(positions, tuple((each / positions).tolist()), tuple((first / positions).tolist()))


def coverage(head_tokens: Sequence[int], text: TrainingText, rows: Sequence[int]) -> float:
    """The share of the tokens of these rows' answers that a draft vocabulary holds."""
    return float(np.isin(text.answers(rows), np.array(head_tokens)).mean())

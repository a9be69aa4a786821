"""Training-time test: the head is trained in the situation in which it will be used.

When an engine drafts, only the first guess has the model's true features. The second guess builds on the head's own
output, the third on that of the second. A head that has only ever seen true features fails there: its errors add up.
So training unrolls the same steps. In step 0 every position i of the text makes its first guess at once. In step k
every position makes its k-th further guess, as if drafting had begun at i.

Which keys may position i see in step k? In an engine that has verified the text up to i, the cache holds the true
features of 0 … i, and then the head's own guesses for this draft, one a step. So for three steps the mask of position i
is (columns are keys, "true" ones from step 0, "own" ones from later steps):

               true: 0 … i   i+1 …     own, step 1: i   others     own, step 2: i   others
    step 0         yes         no
    step 1         yes         no              yes          no
    step 2         yes         no              yes          no            yes          no

Position i never sees the true features behind it, and never another position's guesses. In code the own part is not a
matrix but one extra column a step (`attend`), so that k steps cost little more than k times one step.

The goal of each guess is the model's whole distribution at that place, not only the token it wrote: the loss is the
cross-entropy against the model's probabilities of the draft vocabulary (soft targets). So each token teaches the head
much more, and acceptance at temperatures above 0 depends on it. Tokens of the text take the place of the head's own
guesses, as in all teacher forcing: a guess behind a wrong one would be thrown away anyhow.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.course.speculation.eagle3.head import Eagle3Head, attend

LATER_STEPS = 0.9  # each further step counts this much of the one before: it is reached less often


@dataclass(frozen=True)
class Batch:
    """Rows of text, padded on the right to T tokens."""

    ids: Tensor  # [B, T]
    states: Tensor  # [B, T, 4 × hidden]: target_states.py
    learned: Tensor  # [B, T] bool: whether the token that follows is part of the answer


def shifted(x: Tensor, by: int) -> Tensor:
    """x [B, T, …] moved `by` positions to the left. What enters on the right is zero (no token, not learned)."""
    return torch.cat([x[:, by:], torch.zeros_like(x[:, :by])], 1)


def unroll(head: Eagle3Head, embedding: Tensor, ids: Tensor, features: Tensor, steps: int) -> Iterator[Tensor]:
    """The head's output h [B, T, hidden] of each step. Position i of step k guesses token i + 2 + k.

    `embedding` [vocabulary, hidden] is the model's, `features` [B, T, 3 × hidden] the inputs of its three layers.
    """
    g, keys, values = head.fc(features).float(), [], []
    positions = torch.arange(ids.shape[1])
    for step in range(steps):
        embedded = F.embedding(shifted(ids, 1 + step), embedding)
        q, k, v = head.midlayer.qkv(embedded, g, positions + step)
        keys.append(k)
        values.append(v)
        g = head.midlayer.finish(g, attend(q, keys, values))
        yield g


def loss(head: Eagle3Head, embedding: Tensor, output: Tensor, batch: Batch, steps: int) -> tuple[Tensor, list[float]]:
    """The loss in nats, and each step's share of guesses that are the model's most likely draft token.

    `output` [draft vocabulary, hidden] is the model's output matrix, cut to the draft vocabulary.
    """
    features, last = batch.states.split([3 * head.shape.hidden, head.shape.hidden], -1)
    total, right = torch.zeros(()), []
    for step, h in enumerate(unroll(head, embedding, batch.ids, features, steps)):
        asked = batch.learned & shifted(batch.learned, 1 + step)
        with torch.no_grad():
            goal = F.linear(shifted(last, 1 + step)[asked], output).float().softmax(-1)
        guess = head.logits(h[asked]).float()
        total = total + LATER_STEPS**step * F.cross_entropy(guess, goal)
        right.append(float((guess.argmax(-1) == goal.argmax(-1)).float().mean()))
    return total, right

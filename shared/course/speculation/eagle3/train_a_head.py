"""A half-trained head trained on for some minutes, and judged on text that it never saw (lab 3.3.4, optional).

The text is that of this lab's own head (`environment/eagle3_head/text.npz`): the model's answers, so nothing needs to
be written first. A head that begins untrained would have learned little after some minutes. So training begins part of
the way: each weight lies at SHARE of the straight line from its value in an untrained head to its value in this lab's
head. That is no checkpoint of a training, of which none is kept. But it is a head that guesses in part right, and a few
dozen updates show acceptance rise.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shared.course.speculation.eagle3 import acceptance, head_files, training_text
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.head_gguf import HEAD
from shared.course.speculation.eagle3.target_states import LiveStates
from shared.course.speculation.eagle3.training import Settings, Training, batch_of, batches, feature_spread
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.errors import LabError
from shared.models.choice import ModelChoice
from shared.models.llama import Llama
from shared.report.table import Table

ROWS = 4  # answers a batch
HELD_OUT = 8  # answers on held-out topics
GUESSES = 3
POINTS = 4  # how often acceptance is measured on the way
SHARE = 0.3  # of the way from the untrained head to this lab's head, where training begins
RATE = 1e-3  # the learning rate at its highest: a third of a new head's, whose weights have further to go
READY = "this lab's head"

History = list[dict[str, Any]]


@dataclass(frozen=True)
class KeptStates:
    """The states of the rows that are judged, computed once."""

    of_row: Mapping[int, Tensor]

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        return [self.of_row[number] for number in numbers]


def watch(model: ModelChoice, llama: Llama, updates: int) -> tuple[dict[str, Any], History]:
    """Train a half-trained head, and measure it on the way.

    Returns the values and the raw data for the ledger: tokens a pass with GUESSES drafts of an untrained head, of the
    half-trained one before and after its training, and of this lab's head; the history. Raises LabError if the head or
    its text can't be read, and for a number of updates at which no training would end.
    """
    if not isinstance(updates, int) or updates < 1:
        raise LabError(f"A head can't be trained with {updates!r} updates.", "updates = 60, or 0 to leave it out")
    text = training_text.load(training_text.FILE)
    ready = head_files.load(HEAD, head_files.read_config(model.weights("hf")))
    history = train(llama, text, ready, updates)
    untrained, before, *_, after, of_ready = (one["tokens_a_pass"] for one in history)
    values = {"untrained": untrained, "before": before, "after": after, "of_this_labs_head": of_ready}
    return {"updates": updates, "share": SHARE, **values}, history


def part_way(untrained: Eagle3Head, trained: Eagle3Head, share: float) -> Eagle3Head:
    """The head each of whose weights lies at this share of the straight line from untrained to trained."""
    head = Eagle3Head(trained.shape, trained.draft_tokens.tolist())
    goal = trained.state_dict()
    weights = {
        name: value.lerp(goal[name], share) if value.is_floating_point() else value
        for name, value in untrained.state_dict().items()
    }
    head.load_state_dict(weights)
    return head


def train(
    llama: Llama, text: TrainingText, ready: Eagle3Head, updates: int, report: Callable[[str], None] = print
) -> History:
    """The history of a half-trained head, in entries: an untrained head, the half-trained one before its training, at
    least one on the way, and `ready`.

    `updates` is at least 1. A loss is the mean over the updates since the entry before. Each entry is also reported as
    a line.
    """
    held = text.rows(held_out=True, group="held-out topics")[:HELD_OUT]
    rows, states = text.rows(held_out=False), LiveStates(llama, text)
    judged = KeptStates(dict(zip(held, states.rows(held), strict=True)))
    spread = feature_spread(states, rows[: 2 * ROWS], llama.hidden)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = Eagle3Head(ready.shape, ready.draft_tokens.tolist())
        untrained.start_from(llama.output, llama.norm, spread)
        learner = part_way(untrained, ready, SHARE)
    settings = Settings(updates, one_step=0, rows=ROWS, rate=RATE)
    training = Training(learner, llama.embedding, llama.output, spread, settings)
    began, every, history = time.monotonic(), max(1, updates // POINTS), History()

    def judge(head: Eagle3Head, name: str, losses: Sequence[float] = ()) -> None:
        seconds = time.monotonic() - began
        found = acceptance.measure(head, llama.embedding, text, judged, held, GUESSES)
        loss = sum(losses) / len(losses) if losses else None
        tokens = found.tokens_per_pass(GUESSES)
        history.append({"head": name, "loss_nats": loss, "first": list(found.first), "tokens_a_pass": tokens})
        report(f"{seconds:4.0f} s, {name}: {tokens:.2f} tokens a pass on held-out text")

    judge(untrained, "untrained")
    judge(learner, "half-trained")
    judged_at = 0
    for batch in batches(text, rows, ROWS, begin=0):
        training.step(batch_of(text, states, batch))
        if training.update % every == 0 or training.update == updates:
            judge(learner, f"after {training.update} updates", training.losses[judged_at:])
            judged_at = training.update
        if training.update == updates:
            break
    judge(ready, READY)
    return history


def table(history: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each measurement: loss, shares of drafts whose first k guesses were all right, tokens a pass."""
    shares = ("first guess right", *(f"first {k} right" for k in range(2, GUESSES + 1)))
    header = ("head", "mean loss, nats", *shares, f"tokens a pass, {GUESSES} drafts")
    rows = [
        (
            one["head"],
            "–" if one["loss_nats"] is None else f"{one['loss_nats']:.2f}",
            *(f"{100 * share:.0f} %" for share in one["first"]),
            f"{one['tokens_a_pass']:.2f}",
        )
        for one in history
    ]
    return Table("A head in training, judged on answers about topics that it never saw", header, rows)

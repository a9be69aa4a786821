"""The training loop of an EAGLE-3 head: batches, learning rate, checkpoints that resume.

The learning rate rises, stays, and falls to zero over the last third (warm-up, stable, decay). So a run can be stopped
at any time and continued with more updates: only the fall must be repeated. The first updates train one step of the
training-time test, which is two to three times cheaper than three, and the later ones `steps`.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shared import files
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.target_states import TargetStates
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.course.speculation.eagle3.training_time_test import Batch, loss
from shared.hardware.processor import torch_dtype


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train."""

    updates: int
    steps: int = 3  # of the training-time test
    one_step: float = 0.4  # the share of the updates that train the first step only
    rows: int = 8  # a batch
    rate: float = 3e-3  # the learning rate at its highest
    decay: float = 0.35  # the share of the updates in which the learning rate falls
    weight_decay: float = 0.05
    checkpoint_s: float = 120


def rate_at(update: int, settings: Settings) -> float:
    """The learning rate of an update: it rises over 30 updates, and falls linearly at the end."""
    left = (settings.updates - update) / max(1, settings.updates * settings.decay)
    return settings.rate * min(1.0, (update + 1) / 30, left)


def batches(text: TrainingText, rows: Sequence[int], size: int, begin: int) -> Iterator[list[int]]:
    """Batches without end, from number `begin` on: rows of similar length together, the batches in random order."""
    each = max(1, len(rows) // size)
    epoch, skip = divmod(begin, each)
    while True:
        draw = random.Random(epoch)
        lengths = {row: float(text.starts[row + 1] - text.starts[row]) + draw.random() * 24 for row in rows}
        ordered = sorted(rows, key=lengths.__getitem__)
        order = [ordered[number * size : (number + 1) * size] for number in range(each)]
        draw.shuffle(order)
        yield from order[skip:]
        epoch, skip = epoch + 1, 0


def batch_of(text: TrainingText, states: TargetStates, rows: Sequence[int]) -> Batch:
    """Token ids, states and the mask of what is learned, padded to the longest row."""
    ids = [torch.tensor(text.row(row)) for row in rows]
    learned = [
        torch.arange(len(row)) >= int(text.prompt_tokens[number]) - 1 for number, row in zip(rows, ids, strict=True)
    ]
    for one in learned:
        one[-1] = False  # nothing follows the last token

    def padded(parts: Sequence[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)

    return Batch(padded(ids), padded(states.rows(rows)).to(product_dtype()), padded(learned))


def product_dtype() -> torch.dtype:
    """The format of matrix products on torch's default device: BF16 where it is fast, else float32."""
    fast = torch.get_default_device().type != "cpu" or torch_dtype() == "bfloat16"
    return torch.bfloat16 if fast else torch.float32


def precision() -> contextlib.AbstractContextManager[object]:
    """Matrix products in the fast format."""
    context: contextlib.AbstractContextManager[object] = torch.autocast(
        torch.get_default_device().type, torch.bfloat16, enabled=product_dtype() == torch.bfloat16
    )
    return context


def feature_spread(states: TargetStates, rows: Sequence[int], hidden: int) -> Tensor:
    """The standard deviation of each of the 3 × hidden features over these rows, without each row's first token.

    In the middle and high layers, a text's first token has hidden states about a hundred times as large as any other.
    """
    features = torch.cat([row[1:, : 3 * hidden] for row in states.rows(rows)])
    return features.float().std(0).clamp_min(1e-3)


class Training:
    """A head in training. `run` continues where the checkpoint ended."""

    def __init__(
        self,
        head: Eagle3Head,
        embedding: Tensor,
        output: Tensor,
        spread: Tensor,
        settings: Settings,
        checkpoint: Path | None = None,
    ) -> None:
        """`embedding` and `output` are the model's matrices [vocabulary, hidden]. `checkpoint` is a file, or None."""
        self.head, self.settings, self.checkpoint, self.spread = head, settings, checkpoint, spread
        self.optimizer = torch.optim.AdamW(
            head.parameters(), settings.rate, (0.9, 0.95), weight_decay=settings.weight_decay, fused=True
        )
        self.update, self.seconds = 0, 0.0  # seconds of processor time
        self.losses: list[float] = []
        if checkpoint is not None and checkpoint.exists():
            stored = torch.load(checkpoint, weights_only=True)
            head.load_state_dict(stored["head"])
            self.optimizer.load_state_dict(stored["optimizer"])
            self.update, self.losses, self.seconds = stored["update"], stored["losses"], stored["seconds"]
        # Only now: the draft vocabulary comes with the checkpoint.
        self.embedding, self.output = embedding.float(), output[head.draft_tokens].to(product_dtype())

    def step(self, batch: Batch) -> tuple[float, list[float]]:
        """One update. Returns the loss in nats and the share of right guesses of each step, before the update."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.update, settings)
        steps = 1 if self.update < settings.one_step * settings.updates else settings.steps
        with precision():
            value, right = loss(self.head, self.embedding, self.output, batch, steps)
        self.optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        fusion = self.head.fc.weight
        before = fusion.detach().clone()
        self.optimizer.step()
        # Adam moves all weights alike. A weight on a feature with large values would then move the output too far.
        fusion.data = before + (fusion.data - before) / self.spread
        self.update += 1
        self.losses.append(float(value.detach()))
        return self.losses[-1], right

    def run(
        self, text: TrainingText, states: TargetStates, rows: Sequence[int], report: Callable[[str], None] = print
    ) -> None:
        """Train to the last update of the settings."""
        before, began, saved = self.seconds, time.process_time(), time.monotonic()
        for chosen in batches(text, rows, self.settings.rows, self.update):
            if self.update >= self.settings.updates:
                break
            value, right = self.step(batch_of(text, states, chosen))
            self.seconds = before + time.process_time() - began
            if self.update % 20 == 0:
                shares = " ".join(f"{share:.3f}" for share in right)
                report(
                    f"update {self.update}: loss {value:.3f}, right {shares}, {self.seconds:.0f} s of processor time"
                )
            if time.monotonic() - saved > self.settings.checkpoint_s:
                self.save()
                saved = time.monotonic()
        self.save()

    def save(self) -> None:
        """Write the checkpoint: the old one or the new one, never half of it."""
        if self.checkpoint is None:
            return
        stored = {
            "head": self.head.state_dict(), "optimizer": self.optimizer.state_dict(), "update": self.update,
            "losses": self.losses, "seconds": self.seconds,
        }  # fmt: skip
        temporary = self.checkpoint.with_suffix(".new")
        with files.writing(self.checkpoint):
            torch.save(stored, temporary)
            files.commit(temporary, self.checkpoint)

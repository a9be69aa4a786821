"""What the head sees of its model: four vectors of each token.

They are the inputs of a low, a middle and a high layer, which the head fuses, and the output of the last norm, from
which the model's own distribution follows (times the output matrix). `LiveStates` computes them whenever they are
asked for. That suits a GPU, where the model's pass costs less than reading them from a disk, and short trainings.
`StoredStates` computes them once and keeps them in a memory-mapped file, of 4.6 kB a token of the small model. The file
grows row by row, so a stopped run continues where it ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from shared.course.speculation.eagle3.training_text import TrainingText
from shared.models.llama import Llama

BATCH, CHUNK = 8, 64  # rows


def aux_layers(layers: int) -> tuple[int, int, int]:
    """The layers whose inputs the head fuses, as EAGLE-3 and the engines choose them."""
    return 2, layers // 2, layers - 3


def states_of(llama: Llama, rows: Sequence[Tensor]) -> list[Tensor]:
    """The four vectors of every token, [tokens, 4 × hidden] in BF16 for each row of token ids."""
    counts = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    wanted = (*aux_layers(llama.layers), llama.layers)
    taps = dict.fromkeys(wanted, torch.empty(0))
    llama.forward(ids, llama.new_cache(*ids.shape), counts, taps=taps)
    taps[llama.layers] = F.rms_norm(taps[llama.layers], (llama.hidden,), llama.norm, llama.eps)
    together = torch.cat([taps[layer] for layer in wanted], -1).bfloat16()
    return [row[:count].clone() for row, count in zip(together, counts, strict=True)]


class TargetStates(Protocol):
    """The states of a text."""

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        """The states of these rows, [tokens, 4 × hidden] in BF16 each."""


@dataclass(frozen=True)
class LiveStates:
    """States that are computed when they are asked for, and not kept."""

    llama: Llama
    text: TrainingText

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        return states_of(self.llama, [torch.tensor(self.text.row(number)) for number in numbers])


class StoredStates:
    """The memory-mapped states of all rows of a text."""

    def __init__(self, folder: Path, text: TrainingText, hidden: int) -> None:
        self.text = text
        self.file, self.finished = folder / "states.bin", folder / "states-finished.npy"
        folder.mkdir(parents=True, exist_ok=True)
        self.shape = (len(text.tokens), 4 * hidden)
        wanted = self.shape[0] * self.shape[1] * 2
        # A text only grows at its end (training_text.pack), so the states of earlier rows stay valid.
        with self.file.open("ab") as out:
            out.truncate(wanted)
        self.done = np.zeros(len(text), bool)
        if self.finished.exists():
            before = np.load(self.finished)[: len(text)]
            self.done[: len(before)] = before
        self.stored = np.memmap(self.file, np.uint16, "r+", shape=self.shape)

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        """The states of these rows, [tokens, 4 × hidden] in BF16 each. Raises KeyError if one isn't computed yet."""
        found = []
        for number in numbers:
            if not self.done[number]:
                raise KeyError(f"row {number} has no states yet")
            part = self.stored[self.text.starts[number] : self.text.starts[number + 1]]
            found.append(torch.from_numpy(part.copy()).view(torch.bfloat16))
        return found

    def compute(self, llama: Llama, rows: Sequence[int]) -> None:
        """Compute what these rows lack, in their order. Progress is kept every CHUNK rows, which are of any length."""
        lengths = np.diff(self.text.starts)
        todo = [row for row in rows if not self.done[row]]
        with tqdm(total=int(lengths[todo].sum()), unit=" tokens", mininterval=10, desc="target states") as bar:
            for begin in range(0, len(todo), CHUNK):
                # Rows of similar length together, so that little is padded.
                chunk = sorted(todo[begin : begin + CHUNK], key=lambda row: lengths[row])
                for first in range(0, len(chunk), BATCH):
                    batch = chunk[first : first + BATCH]
                    found = states_of(llama, [torch.from_numpy(self.text.row(row)) for row in batch])
                    for row, states in zip(batch, found, strict=True):
                        start, end = self.text.starts[row], self.text.starts[row + 1]
                        self.stored[start:end] = states.view(torch.int16).numpy().view(np.uint16)
                    bar.update(int(lengths[batch].sum()))
                self.stored.flush()
                self.done[chunk] = True
                np.save(self.finished, self.done)

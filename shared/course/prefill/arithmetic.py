"""What a prefill computes and reads: operations by part, arithmetic intensity, and the share of the peak that it gets.

    shape = arithmetic.shape_of(llama)
    parts = arithmetic.operations(shape, tokens=512)
    arithmetic.achieved(parts, seconds=0.14, peak_tflop_s=0.24)

An operation is one multiplication or one addition. Attention is causal: the token at place t reads t keys, so a prompt
of T tokens needs T·(T+1)/2 pairs. An engine that computes the masked pairs as well does more work than is counted here.
"""

from dataclasses import dataclass
from typing import Any

from shared.metrics.roofline import Ceilings


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like model that decide the work of a prefill."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int  # width between the two halves of the MLP
    vocabulary: int

    @property
    def projections(self) -> int:
        """Weights of queries, keys, values and the output of attention, in one layer."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def weights(self) -> int:
        """Weights that a prefill multiplies by: all layers and the output matrix."""
        return self.layers * (self.projections + 3 * self.hidden * self.mlp) + self.hidden * self.vocabulary


@dataclass(frozen=True)
class Operations:
    """Operations of one prefill by part, all layers together."""

    projections: int
    attention: int
    mlp: int
    output: int  # the logits of the last token

    @property
    def total(self) -> int:
        return self.projections + self.attention + self.mlp + self.output


def shape_of(llama: Any) -> Shape:
    """The shape of a `shared.models.llama.Llama`."""
    return Shape(
        llama.layers, llama.hidden, llama.heads, llama.kv_heads, llama.head_dim,
        llama.down[0].shape[1], llama.output.shape[0],
    )  # fmt: skip


def operations(shape: Shape, tokens: int) -> Operations:
    """The operations of a prefill of `tokens` tokens."""
    pairs = tokens * (tokens + 1) // 2
    return Operations(
        projections=2 * tokens * shape.layers * shape.projections,
        attention=4 * pairs * shape.layers * shape.heads * shape.head_dim,  # scores, then the sum over values
        mlp=2 * tokens * shape.layers * 3 * shape.hidden * shape.mlp,
        output=2 * shape.hidden * shape.vocabulary,
    )


def bytes_moved(shape: Shape, tokens: int, bytes_per_value: float) -> float:
    """Bytes read and written at least: every weight once, and the keys and values of the prompt."""
    kv = 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens
    return (shape.weights + kv) * bytes_per_value


def intensity(shape: Shape, tokens: int, bytes_per_value: float) -> float:
    """Operations for each byte that has to be moved."""
    return operations(shape, tokens).total / bytes_moved(shape, tokens, bytes_per_value)


def ridge_tokens(shape: Shape, ceilings: Ceilings, bytes_per_value: float, most: int = 1 << 20) -> int | None:
    """The shortest prompt that arithmetic limits, not memory; None if none up to `most` tokens does."""
    ridge = ceilings.peak_tflop_s * 1e12 / (ceilings.bandwidth_gb_s * 1e9)
    low, high = 1, most
    if intensity(shape, most, bytes_per_value) < ridge:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if intensity(shape, middle, bytes_per_value) >= ridge else (middle + 1, high)
    return low


def attention_overtakes(shape: Shape) -> int:
    """The shortest prompt in which attention computes at least as much as the MLP."""
    return -(-3 * shape.hidden * shape.mlp // (shape.heads * shape.head_dim)) - 1


@dataclass(frozen=True)
class Achieved:
    """What a prefill reached. `suspicious`: more than the peak, so the peak, the time or the count is wrong."""

    tflop_s: float
    share: float

    @property
    def suspicious(self) -> bool:
        return self.share > 1

    def __str__(self) -> str:
        return f"{self.tflop_s:.3g} TFLOP/s, {self.share:.0%} of the peak" + (
            " (more than is possible: check the peak)" if self.suspicious else ""
        )


def achieved(parts: Operations, seconds: float, peak_tflop_s: float) -> Achieved:
    """Operations per second, and their share of the peak."""
    reached = parts.total / seconds / 1e12
    return Achieved(reached, reached / peak_tflop_s)

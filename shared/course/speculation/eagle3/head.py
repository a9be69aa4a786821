"""An EAGLE-3 head: one small layer that guesses what the big model will write next, from the big model's hidden states.

A draft model of its own would have to understand the text again. The head doesn't: when the model has read token t, its
hidden states already hold what it understood. The head takes the inputs of a low, a middle and a high layer at that
position (the features), and fuses them into one vector g (`fc`). Together with the embedding of the token that the
model chose next, t + 1, this vector passes one decoder layer and gives the distribution of token t + 2:

    features of t ── fc ──> g ──┐
                                ├─> one decoder layer ──> h ──> norm ──> lm_head ──> guess for t + 2
    embedding of token t + 1 ───┘                         │
                                                          └─> takes the place of g in the next guess

For the guess after that the model's features don't exist yet. The head uses its own output h in their place, with the
embedding of the token it has just guessed, and so on. Training must prepare it for this (training_time_test.py).

Two things make it cheap. It uses the model's own embedding, which is not stored again. And its output matrix knows only
the most frequent tokens, the draft vocabulary: `d2t` holds, for each of its tokens, the distance to the token's number
in the model's vocabulary, `t2d` marks the model's tokens that it knows. A token outside can't be guessed; the model
still writes it, and only the guess is lost.

The names of the parameters are those that vLLM, SGLang and llama.cpp's converter expect.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadShape:
    """The sizes of a head. `hidden` and `vocabulary` are its model's."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    draft_vocabulary: int
    eps: float = 1e-5
    rope_theta: float = 10_000.0


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class MidLayer(nn.Module):  # type: ignore[misc]
    """The decoder layer: attention over [embedding, g], then the MLP, each added to what came in."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.input_layernorm = nn.RMSNorm(shape.hidden, shape.eps)  # of the embedding
        self.hidden_norm = nn.RMSNorm(shape.hidden, shape.eps)  # of g
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": linear(2 * shape.hidden, query),
                "k_proj": linear(2 * shape.hidden, key),
                "v_proj": linear(2 * shape.hidden, key),
                "o_proj": linear(query, shape.hidden),
            }
        )
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.eps)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": linear(shape.hidden, shape.intermediate),
                "up_proj": linear(shape.hidden, shape.intermediate),
                "down_proj": linear(shape.intermediate, shape.hidden),
            }
        )

    def qkv(self, embedded: Tensor, g: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, T, head_dim], rotated to `positions` [T]; one key for each query head."""
        both = torch.cat([self.input_layernorm(embedded), self.hidden_norm(g)], -1)
        q, k, v = (
            self.self_attn[name](both).unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        groups = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return self.rotate(q, positions), self.rotate(k, positions), v

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        half = self.shape.head_dim // 2
        frequency = self.shape.rope_theta ** -(torch.arange(half) / half)
        angle = positions[:, None] * frequency
        cos, sin = angle.cos().repeat(1, 2).to(x.dtype), angle.sin().repeat(1, 2).to(x.dtype)
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def finish(self, g: Tensor, attended: Tensor) -> Tensor:
        """What follows attention [B, heads, T, head_dim]: output matrix and MLP. Returns h [B, T, hidden]."""
        h = g + self.self_attn["o_proj"](attended.transpose(1, 2).flatten(2))
        normed = self.post_attention_layernorm(h)
        return h + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed))


class Eagle3Head(nn.Module):  # type: ignore[misc]
    """The head, with its draft vocabulary as numbers of the model's tokens."""

    d2t: Tensor
    t2d: Tensor

    def __init__(self, shape: HeadShape, draft_tokens: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.fc = linear(3 * shape.hidden, shape.hidden)
        self.midlayer = MidLayer(shape)
        self.norm = nn.RMSNorm(shape.hidden, shape.eps)
        self.lm_head = linear(shape.hidden, shape.draft_vocabulary)
        tokens, known = torch.tensor(sorted(draft_tokens)), torch.zeros(shape.vocabulary, dtype=torch.bool)
        if len(tokens) != shape.draft_vocabulary:
            raise ValueError(f"{len(tokens)} draft tokens do not fill a vocabulary of {shape.draft_vocabulary}")
        known[tokens] = True
        self.register_buffer("d2t", tokens - torch.arange(len(tokens)))
        self.register_buffer("t2d", known)

    @property
    def draft_tokens(self) -> Tensor:
        """The model's number of each token of the draft vocabulary, ascending."""
        return self.d2t + torch.arange(len(self.d2t))

    def start_from(self, output: Tensor, norm: Tensor, spread: Tensor) -> None:
        """Begin with the model's own output matrix [vocabulary, hidden] and last norm [hidden].

        `spread` [3 × hidden] is the standard deviation of each feature. High layers have values ten times as large as
        low ones; divided by it, all of them weigh the same at the beginning.
        """
        self.lm_head.weight.data.copy_(output[self.draft_tokens].float())
        self.norm.weight.data.copy_(norm.float())
        self.fc.weight.data /= spread

    def logits(self, h: Tensor) -> Tensor:
        """Logits over the draft vocabulary."""
        out: Tensor = self.lm_head(self.norm(h))
        return out


def attend(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Attention of one step of the training-time test (see there for the mask).

    `keys[0]` and `values[0]` [B, heads, T, head_dim] come from true features: position i sees 0 … i of them. The later
    ones come from the head's own guesses: position i sees only its own, number i.
    """
    scale, steps = 1 / math.sqrt(q.shape[-1]), q.shape[-2]
    hidden = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    true = (q @ keys[0].transpose(-1, -2)).float().masked_fill(hidden, -torch.inf)
    own = [(q * key).sum(-1, keepdim=True).float() for key in keys[1:]]
    weights = (torch.cat([true, *own], -1) * scale).softmax(-1).to(values[0].dtype)
    out = weights[..., :steps] @ values[0]
    for number, value in enumerate(values[1:]):
        column = steps + number
        out = out + weights[..., column : column + 1] * value
    return out

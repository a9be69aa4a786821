"""The prefill of the small model as a torch module: the graph that ahead-of-time compilers are given.

`shared.models.llama` computes prefill and decode on a cache that it writes in place. A compiler wants a function
without side effects, so this module computes a whole prompt at once, from token ids to the logits of the last token.

A prompt may be padded on the right to the length T of the graph: attention is causal, so no real token sees the
padding. `last` is the place of the last real token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models.llama import Llama

LONGEST = 4096  # tokens; rotary tables are stored for this many positions
SHORTEST = 2  # torch.export takes a length of 1 for a constant


class PrefillLayer(nn.Module):  # type: ignore[misc]  # torch is not followed
    """One layer: hidden states [1, T, hidden], rotary tables [T, 1, head_dim] → hidden states."""

    def __init__(self, llama: Llama, number: int) -> None:
        super().__init__()
        self.hidden, self.eps = llama.hidden, llama.eps
        self.heads, self.kv_heads, self.head_dim = llama.heads, llama.kv_heads, llama.head_dim
        for name in ("attn_norm", "mlp_norm", "qkv", "out", "gate_up", "down"):
            setattr(self, name, _fixed(getattr(llama, name)[number]))
        # Qwen2 has the bias, Qwen3 the two norms, Llama none of them.
        for name in ("qkv_bias", "q_norm", "k_norm"):
            found = getattr(llama, name)[number]
            setattr(self, name, None if found is None else _fixed(found))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        steps, half = x.shape[1], self.head_dim // 2

        def rotate(x: Tensor) -> Tensor:  # [1, T, heads, head_dim]
            return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

        h = F.linear(F.rms_norm(x, (self.hidden,), self.attn_norm, self.eps), self.qkv, self.qkv_bias)
        h = h.view(1, steps, self.heads + 2 * self.kv_heads, self.head_dim)
        q, k, v = h.split([self.heads, self.kv_heads, self.kv_heads], 2)
        if self.q_norm is not None:
            q = F.rms_norm(q, (self.head_dim,), self.q_norm, self.eps)
            k = F.rms_norm(k, (self.head_dim,), self.k_norm, self.eps)
        # Each KV head serves several query heads. OpenVINO 2026.4 and torch's flash attention take them repeated.
        k, v = (one.repeat_interleave(self.heads // self.kv_heads, 2) for one in (rotate(k), v))
        h = F.scaled_dot_product_attention(
            rotate(q).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, is_causal=mask is None
        )
        x = x + F.linear(h.transpose(1, 2).reshape(1, steps, -1), self.out)
        gate, up = F.linear(F.rms_norm(x, (self.hidden,), self.mlp_norm, self.eps), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


class PrefillModel(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Token ids [1, T] and the place of the last real one [1] → its logits [1, vocabulary], as `Llama.forward`'s."""

    def __init__(self, llama: Llama, mask_once: bool = False) -> None:
        """Take the weights of `llama` (shared, not copied).

        mask_once: the graph holds the causal mask as a tensor that all layers share. OpenVINO 2026.4 turns `is_causal`
        into a mask that each layer makes anew. Torch wants `is_causal`: its kernel then skips most masked pairs.
        """
        super().__init__()
        self.mask_once = mask_once
        self.hidden, self.eps = llama.hidden, llama.eps
        self.longest = min(LONGEST, llama.context)
        self.embedding, self.norm = _fixed(llama.embedding), _fixed(llama.norm)
        # None: the embedding serves as output matrix too, and the engine stores it once.
        self.output = None if llama.output is llama.embedding else _fixed(llama.output)
        self.layers = nn.ModuleList([PrefillLayer(llama, number) for number in range(llama.layers)])
        self.register_buffer("cos", llama.cos[: self.longest].clone())
        self.register_buffer("sin", llama.sin[: self.longest].clone())

    def forward(self, ids: Tensor, last: Tensor) -> Tensor:
        steps = ids.shape[1]
        cos, sin = self.cos[:steps, None], self.sin[:steps, None]  # [T, 1, head_dim]
        mask = None
        if self.mask_once:
            places = torch.arange(steps, device=ids.device)
            mask = places[:, None] >= places  # [T, T]: which keys each token sees
        x = self.embedding[ids]
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        end = F.rms_norm(x[0].index_select(0, last), (self.hidden,), self.norm, self.eps)
        return F.linear(end, self.embedding if self.output is None else self.output)


def _fixed(weight: Any) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)

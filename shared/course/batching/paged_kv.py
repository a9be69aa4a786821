"""A paged KV cache, and a forward pass over a batch in which every sequence is at another place.

The cache is a pool of blocks. Each block has room for the keys and values of a few tokens of one sequence. A sequence
owns a list of blocks, its block table; they may lie anywhere in the pool. This is the idea of PagedAttention (Kwon et
al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023): no sequence
reserves room for the longest answer that it might give, and no gap between two sequences is too small to be used.

A step takes rows: (the new tokens of a sequence, how many of its tokens are in the cache already, its block table). A
row of one token decodes. A longer row is a prompt, or a chunk of one. The matrix products are the same for every
token, so all tokens of all rows form one flat list [N, hidden] and pass each matrix together. Only attention needs to
know which keys belong to which sequence. For it, rows of one token form one group and the others a second one, and each
group is padded to its longest row. (In a single group, every decoding row would be padded to the length of a chunk.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.models.llama import Llama

Row = tuple[Sequence[int], int, Sequence[int]]  # new token ids, tokens in the cache before, block table


@dataclass(frozen=True)
class Group:
    """Rows whose attention is computed together: B sequences with at most T new tokens and at most S positions."""

    shape: tuple[int, int]  # B, T
    tokens: Tensor  # [B × T]: indices into the step's flat tokens; padding repeats the row's last token
    blocks: Tensor  # [B × blocks of the longest]: the block tables, padded with block 0
    mask: Tensor  # [B, 1, share × T, S]: 0 where a query may look, else −inf; once for each head that shares a KV head
    real: Tensor  # indices of those of the B × T that are not padding


def product(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """F.linear with this matrix. A float32 matrix is copied once into the layout that oneDNN's products read.

    Without the copy, each product of a few rows converts the matrix again or uses a slower kernel. On a processor with
    AVX2 the output matrix took 35 ms for 16 rows instead of 14. (torch.compile does the same when it freezes a model.)
    """
    if weight.dtype is not torch.float32 or not torch.backends.mkldnn.is_available():
        return partial(F.linear, weight=weight, bias=bias)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")


class PagedKV:
    """The pool: in every layer `blocks` blocks of `block_size` tokens. The engine records which request
    owns which block."""

    def __init__(self, llama: Llama, blocks: int, block_size: int = 16) -> None:
        self.llama, self.blocks, self.block_size = llama, blocks, block_size
        shape = (llama.layers, blocks, block_size, 2, llama.kv_heads, llama.head_dim)  # keys and values side by side
        self.pool = torch.zeros(shape, dtype=llama.embedding.dtype)
        self.qkv = [product(weight, bias) for weight, bias in zip(llama.qkv, llama.qkv_bias, strict=True)]
        self.out, self.gate_up, self.down = ([*map(product, w)] for w in (llama.out, llama.gate_up, llama.down))
        self.output = product(llama.output)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Append each row's new tokens to its sequence. Returns logits [rows, vocabulary] for each row's last token.

        Raises ValueError if a block table has no room for its row's tokens.
        """
        llama, size = self.llama, self.block_size
        counts = [len(new) for new, _, _ in rows]
        for new, before, table in rows:
            if before + len(new) > len(table) * size:
                raise ValueError(f"{len(table)} blocks of {size} tokens can't hold {before + len(new)} tokens")
        ids = torch.tensor([token for new, _, _ in rows for token in new])
        positions = torch.tensor([before + i for new, before, _ in rows for i in range(len(new))])
        slots = torch.tensor(
            [t[p // size] * size + p % size for new, before, t in rows for p in range(before, before + len(new))]
        )
        ends = torch.tensor(counts).cumsum(0)
        groups = list(self._groups(rows, counts, ends))
        cos, sin = llama.cos[positions][:, None], llama.sin[positions][:, None]
        q_and_k = llama.heads + llama.kv_heads

        x = llama.embedding[ids]  # [N, hidden]
        for i in range(llama.layers):
            h = F.rms_norm(x, (llama.hidden,), llama.attn_norm[i], llama.eps)
            h = self.qkv[i](h).view(len(ids), -1, llama.head_dim)
            qk, v = h[:, :q_and_k], h[:, q_and_k:]
            if (q_norm := llama.q_norm[i]) is not None and (k_norm := llama.k_norm[i]) is not None:
                q, k = qk.split([llama.heads, llama.kv_heads], 1)
                q = F.rms_norm(q, (llama.head_dim,), q_norm, llama.eps)
                qk = torch.cat([q, F.rms_norm(k, (llama.head_dim,), k_norm, llama.eps)], 1)
            a, b = qk.chunk(2, -1)
            qk = qk * cos + torch.cat([-b, a], -1) * sin  # rotated, as in shared.models.llama
            layer = self.pool[i]
            new = torch.stack([qk[:, llama.heads :], v], 1)  # [N, 2, kv_heads, head_dim]
            layer.view(-1, 2, llama.kv_heads, llama.head_dim).index_copy_(0, slots, new)
            h = self._attention(qk[:, : llama.heads], layer, groups)
            x = x + self.out[i](h)
            h = F.rms_norm(x, (llama.hidden,), llama.mlp_norm[i], llama.eps)
            gate, up = self.gate_up[i](h).chunk(2, -1)
            x = x + self.down[i](F.silu(gate) * up)
        return self.output(F.rms_norm(x[ends - 1], (llama.hidden,), llama.norm, llama.eps))

    def next_tokens(self, rows: Sequence[Row]) -> list[int]:
        """The same step, with the most likely token after each row instead of its logits."""
        tokens: list[int] = self.forward(rows).argmax(-1).tolist()
        return tokens

    def _groups(self, rows: Sequence[Row], counts: Sequence[int], ends: Tensor) -> Iterator[Group]:
        share = self.llama.heads // self.llama.kv_heads
        decoding = [i for i, count in enumerate(counts) if count == 1]
        chunks = [i for i, count in enumerate(counts) if count > 1]
        for members in filter(None, (decoding, chunks)):
            count = torch.tensor([counts[i] for i in members])[:, None]
            before = torch.tensor([rows[i][1] for i in members])[:, None]
            steps = torch.arange(int(count.max()))
            span = int((before + count).max())
            most = -(-span // self.block_size)
            tables = [[*rows[i][2][:most], *[0] * (most - len(rows[i][2]))] for i in members]
            inside = steps.minimum(count - 1)  # [B, T]
            seen = torch.arange(most * self.block_size) <= (before + inside)[..., None]  # [B, T, S]
            mask = torch.zeros(seen.shape, dtype=self.pool.dtype).masked_fill(~seen, -torch.inf)
            first = ends[members][:, None] - count
            yield Group(
                (len(members), len(steps)),
                (first + inside).flatten(),
                torch.tensor(tables).flatten(),
                mask.repeat(1, share, 1)[:, None],
                (steps < count).flatten().nonzero()[:, 0],
            )

    def _attention(self, q: Tensor, layer: Tensor, groups: Sequence[Group]) -> Tensor:
        """Attention of each token over the keys and values of its own sequence: [N, heads, head_dim] → [N, hidden]."""
        llama, out = self.llama, torch.empty_like(q)
        share = llama.heads // llama.kv_heads
        for group in groups:
            batch, steps = group.shape
            kv = layer.index_select(0, group.blocks).view(batch, -1, 2, llama.kv_heads, llama.head_dim)
            keys, values = kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)  # [B, kv_heads, S, head_dim]
            mine = q.index_select(0, group.tokens).view(batch, steps, llama.kv_heads, share, llama.head_dim)
            mine = mine.permute(0, 2, 3, 1, 4).reshape(batch, llama.kv_heads, share * steps, llama.head_dim)
            h = F.scaled_dot_product_attention(mine, keys, values, attn_mask=group.mask)
            h = h.view(batch, llama.kv_heads, share, steps, llama.head_dim).permute(0, 3, 1, 2, 4)
            h = h.reshape(batch * steps, llama.heads, llama.head_dim).index_select(0, group.real)
            out.index_copy_(0, group.tokens.index_select(0, group.real), h)
        return out.view(len(q), -1)

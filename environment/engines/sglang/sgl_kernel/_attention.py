"""The two attention kernels of SGLang's `intel_amx` backend, in torch: plain causal self-attention over the cache.

q, o      [tokens, heads, head_dim], the tokens of all requests one after the other; results go into `o`
buffers   keys and values of all slots, [slots, kv_heads, head_dim]; `req_to_token[request]` lists slots by position
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ × scale) v of one request: q [tokens, heads, d], keys and values [positions, kv_heads, d]."""
    queries, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, keys, values))
    grouped = queries.shape[1] != keys.shape[1]
    one = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return one.squeeze(0).transpose(0, 1)


def check(kernel: str, **extras: object) -> None:
    """Raise NotImplementedError if the kernel is asked for more than plain causal self-attention."""
    if asked := [name for name, value in extras.items() if isinstance(value, Tensor) or value]:
        raise NotImplementedError(
            f"sgl_kernel stand-in: {kernel} is plain causal self-attention, but was asked for {', '.join(asked)}"
        )


def extend_attention_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    k_buffer: Tensor,
    v_buffer: Tensor,
    k_scale: float,
    v_scale: float,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    extend_seq_lens: Tensor,
    extend_start_loc: Tensor,
    max_len_extend: int,
    sm_scale: float,
    logit_cap: float,
    is_cross_attention: bool,
    sliding_window: int,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
    tree_mask: Tensor | None,
    is_causal: bool,
) -> None:
    """The last `extend_seq_lens` tokens of each request against all of its `seq_lens` tokens: prefill, verification.

    SGLang has written the keys and values of the new tokens into the buffers already.
    """
    check(
        "extend_attention_cpu",
        logit_cap=logit_cap,
        cross_attention=is_cross_attention,
        sliding_window=max(sliding_window, 0),
        encoder_lens=encoder_lens,
        sinks=sinks,
        scales=k_scale != 1 or v_scale != 1,
        tree_mask=tree_mask,
        attention_to_later_tokens=not is_causal,
    )
    lists = (req_pool_indices, seq_lens, extend_seq_lens, extend_start_loc)
    for request, total, new, first in zip(*(x.tolist() for x in lists), strict=True):
        slots = req_to_token[request, :total].long()
        mask = None if new == 1 else torch.ones(new, total, dtype=torch.bool).tril(total - new)
        mine = slice(first, first + new)
        o[mine] = attend(q[mine], k_buffer[slots], v_buffer[slots], sm_scale, mask)


def decode_attention_cpu(
    q: Tensor,
    k_buffer: Tensor,
    v_buffer: Tensor,
    k_scale: float,
    v_scale: float,
    o: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    loc: Tensor,
    attn_logits: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    sm_scale: float,
    logit_cap: float,
    is_cross_attention: bool,
    sliding_window: int,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
) -> None:
    """One new token of each request against all of its `seq_lens` tokens. Its keys and values are stored at `loc`."""
    check(
        "decode_attention_cpu",
        logit_cap=logit_cap,
        cross_attention=is_cross_attention,
        sliding_window=max(sliding_window, 0),
        encoder_lens=encoder_lens,
        sinks=sinks,
        scales=k_scale != 1 or v_scale != 1,
    )
    if k is not None and v is not None:
        k_buffer[loc] = k.view(-1, *k_buffer.shape[1:]).to(k_buffer.dtype)
        v_buffer[loc] = v.view(-1, *v_buffer.shape[1:]).to(v_buffer.dtype)
    for i, (request, total) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        slots = req_to_token[request, :total].long()
        o[i : i + 1] = attend(q[i : i + 1], k_buffer[slots], v_buffer[slots], sm_scale, None)

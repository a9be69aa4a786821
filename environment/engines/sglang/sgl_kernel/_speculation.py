"""The kernels of SGLang's EAGLE worker, in torch: chains of drafts (topk 1), verified greedily.

Each has the signature of the compiled kernel and writes its results into the tensors that it is given. Names of the
arguments are the kernels' own, "retrive" included.

    bs      requests in the batch
    n       tokens that a verification reads of each request: the model's last token, then the drafts
    slot    the place of one token's keys and values in the cache; `req_to_token[request]` lists them by position
"""

import ctypes

import torch
from torch import Tensor

QUERIES_ONLY = 1  # the only form of mask that SGLang asks a processor for: TreeMaskMode.QLEN_ONLY


def unsupplied(kernel: str, why: str) -> NotImplementedError:
    return NotImplementedError(f"sgl_kernel stand-in: {kernel} {why}")


def build_tree_kernel_efficient_cpu(
    parent_list: Tensor,
    selected_index: Tensor,
    seq_lens: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    topk: int,
    depth: int,
    n: int,
    tree_mask_mode: int,
) -> None:
    """A chain: token i of a request follows token i − 1, sees those before it, and has no sibling.

    Writes `positions` [bs × n], the mask [bs × n × n], and the three tables [bs, n]: where each token stands in the
    batch, the next token of the chain (−1 at its end), and the next sibling (−1).
    """
    if topk != 1:
        raise unsupplied("build_tree_kernel_efficient_cpu", f"builds chains of drafts (topk 1), but topk is {topk}")
    if int(tree_mask_mode) != QUERIES_ONLY:
        raise unsupplied("build_tree_kernel_efficient_cpu", f"makes no mask of mode {int(tree_mask_mode)}")
    bs, step = seq_lens.numel(), torch.arange(n)
    positions.view(bs, n).copy_(seq_lens.view(bs, 1) + step)
    tree_mask[: bs * n * n].view(bs, n, n).copy_(torch.ones(n, n, dtype=torch.bool).tril())
    retrive_index.copy_(torch.arange(bs * n).view(bs, n))
    retrive_next_token.copy_(torch.where(step < n - 1, step + 1, -1).expand(bs, n))
    retrive_next_sibling.fill_(-1)


def verify_tree_greedy_cpu(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Accept drafts as long as each is the model's own best token.

    `candidates` [bs, n] are the model's last token and its drafts, and `target_predict` [bs, n] the model's best token
    after each. Writes that into `predicts` [bs × n], the number of accepted drafts into `accept_token_num` [bs], and
    into `accept_index` [bs, depth] where the tokens of the answer stand in `predicts`, then −1.
    """
    if bool((retrive_next_sibling != -1).any()):
        raise unsupplied("verify_tree_greedy_cpu", "verifies chains of drafts, but one of these has siblings")
    length = min(candidates.shape[1], accept_index.shape[1])
    right = candidates[:, 1:length] == target_predict[:, : length - 1]
    accepted = right.int().cumprod(1).sum(1)
    predicts.copy_(target_predict.reshape(-1))
    accept_token_num.copy_(accepted)
    column = torch.arange(accept_index.shape[1])
    accept_index.copy_(torch.where(column <= accepted.view(-1, 1), retrive_index[:, :1] + column, -1))


def fill_bonus_tokens_cpu(accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, accept_stride: int) -> None:
    """The last accepted token of each request, which the model itself chose. `accept_lens` [bs] counts it too."""
    last = accept_stride * torch.arange(accept_lens.numel()) + accept_lens.long() - 1
    bonus_tokens.copy_(accept_tokens.reshape(-1)[last])


def fill_accept_out_cache_loc_cpu(accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor) -> None:
    """The slots of the accepted tokens, packed to the front."""
    accepted = accept_index.reshape(-1)
    accepted = accepted[accepted >= 0].long()
    accept_out_cache_loc[: accepted.numel()] = out_cache_loc[accepted]


def assign_req_to_token_pool_cpu(
    req_pool_indices: Tensor, req_to_token: Tensor, start: Tensor, end: Tensor, out_cache_loc: Tensor, pool_len: int
) -> None:
    """Enter new slots, request after request, at the positions from `start` to `end` of each request's list."""
    done = 0
    for request, first, last in zip(req_pool_indices.tolist(), start.tolist(), end.tolist(), strict=True):
        req_to_token[request, first:last] = out_cache_loc[done : done + last - first].to(req_to_token.dtype)
        done += last - first


def assign_extend_cache_locs_cpu(
    req_pool_indices: Tensor, req_to_token: Tensor, start: Tensor, end: Tensor, out_cache_loc: Tensor, pool_len: int
) -> None:
    """The reverse: read the slots of these positions, request after request."""
    done = 0
    for request, first, last in zip(req_pool_indices.tolist(), start.tolist(), end.tolist(), strict=True):
        out_cache_loc[done : done + last - first] = req_to_token[request, first:last]
        done += last - first


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
    topk: int,
    num_steps: int,
) -> None:
    """The slots for the drafts of each request: the `topk × num_steps` positions after its tokens."""
    end = seq_lens + topk * num_steps
    assign_extend_cache_locs_cpu(req_pool_indices, req_to_token, seq_lens, end, out_cache_loc, pool_len)


def build_draft_decode_metadata_cpu(
    req_to_token: Tensor, req_pool_indices: Tensor, seq_lens: Tensor, topk: int, num_steps: int, pool_len: int
) -> Tensor:
    """One list of slots for each chain, [bs, pool_len]. The only chain of a request reads the request's own list."""
    if topk != 1:
        raise unsupplied("build_draft_decode_metadata_cpu", f"lists chains of drafts (topk 1), but topk is {topk}")
    return req_to_token[req_pool_indices.long()]


def copy_all_layer_kv_cache_cpu(data_ptrs: Tensor, strides: Tensor, tgt_loc: Tensor, src_loc: Tensor) -> None:
    """Copy the keys and values of slots to other slots, in every layer. All are read before one is written.

    `data_ptrs` are the addresses of the layers' buffers, and `strides` the bytes of one slot in each. With chains the
    accepted tokens already stand where they belong, and SGLang calls this only at its start.
    """
    source, target = src_loc.tolist(), tgt_loc.tolist()
    for base, size in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        rows = [ctypes.string_at(base + slot * size, size) for slot in source]
        for slot, row in zip(target, rows, strict=True):
            ctypes.memmove(base + slot * size, row, size)

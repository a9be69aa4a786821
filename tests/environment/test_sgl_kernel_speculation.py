"""The stand-in's functions for SGLang's EAGLE worker, each against a slow plain reference. No SGLang is needed."""

import importlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from shared.engines.sglang import STAND_IN

SLOTS, WIDTH = 60, 24  # of the cache; positions in a request's list


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    finders = list(sys.meta_path)
    sys.path.insert(0, str(STAND_IN))
    yield importlib.import_module("sgl_kernel")
    sys.path.remove(str(STAND_IN))
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.split(".")[0] == "sgl_kernel"]:
        del sys.modules[name]


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def lists(requests: int, random: torch.Generator) -> Tensor:
    """Each request's slots by position: all different."""
    chosen = torch.randperm(requests * WIDTH, generator=random)
    return chosen.view(requests, WIDTH).int()


def test_a_tree_of_one_branch_is_a_chain(kernel: Any) -> None:
    bs, n = 3, 4
    seq_lens = torch.tensor([5, 1, 9])
    mask, positions = torch.zeros(bs * n * n, dtype=torch.bool), torch.empty(bs * n, dtype=torch.long)
    index, following, sibling = torch.full((3, bs, n), -7)
    kernel.build_tree_kernel_efficient_cpu(
        None, None, seq_lens, mask, positions, index, following, sibling, 1, n - 1, n, 1
    )
    for r in range(bs):
        for i in range(n):
            assert positions[r * n + i] == seq_lens[r] + i
            assert index[r, i] == r * n + i
            assert following[r, i] == (i + 1 if i < n - 1 else -1)
            assert sibling[r, i] == -1
            assert [bool(seen) for seen in mask.view(bs, n, n)[r, i]] == [j <= i for j in range(n)]


def verified(candidates: list[list[int]], best: list[list[int]], depth: int) -> tuple[list[list[int]], list[int]]:
    """Walk through each chain, token by token."""
    where, numbers = [], []
    for r, (chain, right) in enumerate(zip(candidates, best, strict=True)):
        row, n = [r * len(chain)], len(chain)
        while len(row) < min(n, depth) and chain[len(row)] == right[len(row) - 1]:
            row.append(r * n + len(row))
        numbers.append(len(row) - 1)
        where.append(row + [-1] * (depth - len(row)))
    return where, numbers


@pytest.mark.parametrize("n", [2, 4, 6])
def test_drafts_are_accepted_until_the_first_wrong_one(kernel: Any, random: torch.Generator, n: int) -> None:
    bs = 200
    best = torch.randint(0, 2, (bs, n), generator=random)  # two tokens, so that many drafts are right by chance
    candidates = torch.randint(0, 2, (bs, n), generator=random)
    predicts, accept_index = torch.zeros(bs * n, dtype=torch.int32), torch.full((bs, n), -1, dtype=torch.int32)
    numbers = torch.empty(bs, dtype=torch.int32)
    index = torch.arange(bs * n).view(bs, n)
    kernel.verify_tree_greedy_cpu(
        predicts=predicts, accept_index=accept_index, accept_token_num=numbers, candidates=candidates,
        retrive_index=index, retrive_next_token=index, retrive_next_sibling=torch.full((bs, n), -1),
        target_predict=best,
    )  # fmt: skip
    where, counted = verified(candidates.tolist(), best.tolist(), n)
    assert accept_index.tolist() == where
    assert numbers.tolist() == counted
    assert set(counted) == set(range(n))  # none accepted, and all accepted, are among them
    for r, row in enumerate(where):  # the tokens that SGLang reads there: the accepted drafts, then the model's own
        tokens = [int(predicts[i]) for i in row if i >= 0]
        assert tokens == [*candidates[r, 1 : counted[r] + 1].tolist(), int(best[r, counted[r]])]


def test_the_bonus_token_is_the_last_accepted_one(kernel: Any) -> None:
    tokens, lens = torch.arange(100, 112).view(3, 4), torch.tensor([1, 4, 2], dtype=torch.int32)
    bonus = torch.empty(3, dtype=torch.int32)
    kernel.fill_bonus_tokens_cpu(tokens, lens, bonus, 4)
    assert bonus.tolist() == [tokens.tolist()[r][int(length) - 1] for r, length in enumerate(lens)] == [100, 107, 109]


def test_slots_of_accepted_tokens_are_packed_to_the_front(kernel: Any) -> None:
    index = torch.tensor([[0, 1, -1], [3, -1, -1], [6, 7, 8]], dtype=torch.int32)
    slots, packed = torch.arange(50, 59), torch.full((9,), -1)
    kernel.fill_accept_out_cache_loc_cpu(index, slots, packed)
    assert packed.tolist() == [50, 51, 53, 56, 57, 58, -1, -1, -1]


def test_slots_are_entered_into_lists_and_read_from_them(kernel: Any, random: torch.Generator) -> None:
    pool, requests = lists(5, random), torch.tensor([4, 0, 2])
    before, start, end = pool.clone(), torch.tensor([3, 0, 10]), torch.tensor([5, 4, 10])
    slots = torch.arange(900, 906)
    kernel.assign_req_to_token_pool_cpu(requests, pool, start, end, slots, WIDTH)
    expected, given = before.tolist(), iter(slots.tolist())
    for r, first, last in zip(requests.tolist(), start.tolist(), end.tolist(), strict=True):
        for position in range(first, last):
            expected[r][position] = next(given)
    assert pool.tolist() == expected
    back = torch.empty(6, dtype=torch.int64)
    kernel.assign_extend_cache_locs_cpu(requests, pool, start, end, back, WIDTH)
    assert back.tolist() == slots.tolist()


def test_drafts_get_the_positions_after_the_tokens(kernel: Any, random: torch.Generator) -> None:
    pool, requests, lens = lists(4, random), torch.tensor([3, 1]), torch.tensor([7, 2])
    slots = torch.empty(6, dtype=torch.int64)
    kernel.assign_draft_cache_locs_contiguous_cpu(requests, pool, lens, slots, WIDTH, 1, 3)
    assert slots.tolist() == [int(pool[r, n + i]) for r, n in ((3, 7), (1, 2)) for i in range(3)]
    chains = kernel.build_draft_decode_metadata_cpu(pool, requests, lens, 1, 3, WIDTH)
    assert chains.tolist() == [pool[3].tolist(), pool[1].tolist()]


def test_slots_are_copied_in_every_layer(kernel: Any, random: torch.Generator) -> None:
    layers = [torch.rand(10, 6, generator=random), torch.rand(10, 3, generator=random).bfloat16()]
    expected = [layer.clone() for layer in layers]
    source, target = torch.tensor([2, 3, 9]), torch.tensor([3, 4, 0])  # slot 3 is read and written
    for layer in expected:
        layer[target] = layer[source]
    addresses = torch.tensor([layer.data_ptr() for layer in layers], dtype=torch.uint64)
    sizes = torch.tensor([layer[0].numel() * layer.element_size() for layer in layers])
    kernel.copy_all_layer_kv_cache_cpu(addresses, sizes, target, source)
    assert all(torch.equal(layer, right) for layer, right in zip(layers, expected, strict=True))


def attended(q: Tensor, keys: list[Tensor], values: list[Tensor], scale: float, group: int) -> list[list[float]]:
    """Attention of one token, [heads][head_dim], in plain Python: a softmax over its positions for each head."""
    out = []
    for head, query in enumerate(q.tolist()):
        scores = [scale * sum(a * b for a, b in zip(query, key[head // group].tolist(), strict=True)) for key in keys]
        weights = [math.exp(score - max(scores)) for score in scores]
        mixed = [
            sum(w * float(value[head // group, d]) for w, value in zip(weights, values, strict=True)) / sum(weights)
            for d in range(q.shape[1])
        ]
        out.append(mixed)
    return out


@pytest.fixture
def cache(random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys and values of every slot: 2 KV heads of 8 numbers."""
    keys, values = torch.randn(2, SLOTS + WIDTH * 2, 2, 8, generator=random)
    return keys, values


def extras(**other: Any) -> dict[str, Any]:
    plain = {"logit_cap": 0.0, "is_cross_attention": False, "sliding_window": 0, "encoder_lens": None, "sinks": None}
    return {**plain, **other}


@pytest.mark.parametrize("new", [[1, 1, 1], [4, 4, 4], [7, 3, 12]])  # decoding, verification of 3 drafts, prefill
def test_new_tokens_attend_to_all_before_them(
    kernel: Any, random: torch.Generator, cache: tuple[Tensor, Tensor], new: list[int]
) -> None:
    pool, requests, lens = lists(4, random), torch.tensor([2, 0, 3]), torch.tensor([7, 5, 12])
    q = torch.randn(sum(new), 4, 8, generator=random)
    starts = torch.tensor([0, new[0], new[0] + new[1]])
    out = torch.empty_like(q)
    kernel.extend_attention_cpu(
        q, None, None, out, *cache, 1.0, 1.0, pool, requests, lens, torch.tensor(new), starts, max(new), 0.3,
        **extras(tree_mask=None, is_causal=True),
    )  # fmt: skip
    token = 0
    for r, length, count in zip(requests.tolist(), lens.tolist(), new, strict=True):
        for i in range(count):
            slots = pool[r, : length - count + i + 1].tolist()
            right = attended(q[token], [cache[0][s] for s in slots], [cache[1][s] for s in slots], 0.3, 2)
            torch.testing.assert_close(out[token], torch.tensor(right), atol=1e-5, rtol=1e-5)
            token += 1


def test_a_decoding_step_stores_its_keys_first(
    kernel: Any, random: torch.Generator, cache: tuple[Tensor, Tensor]
) -> None:
    keys, values = cache
    pool, requests, lens = lists(4, random), torch.tensor([1, 3]), torch.tensor([6, 2])
    slots = torch.tensor([int(pool[1, 5]), int(pool[3, 1])])
    q, k, v = (torch.randn(2, heads, 8, generator=random) for heads in (4, 2, 2))
    out = torch.empty_like(q)
    kernel.decode_attention_cpu(
        q, keys, values, 1.0, 1.0, out, k.view(2, 16), v.view(2, 16), slots, None, pool, requests, lens, 0.3, **extras()
    )
    assert torch.equal(keys[slots], k)
    assert torch.equal(values[slots], v)
    for token, (r, length) in enumerate(((1, 6), (3, 2))):
        seen = pool[r, :length].tolist()
        right = attended(q[token], [keys[s] for s in seen], [values[s] for s in seen], 0.3, 2)
        torch.testing.assert_close(out[token], torch.tensor(right), atol=1e-5, rtol=1e-5)
    read = out.clone()
    kernel.decode_attention_cpu(
        q, keys, values, 1.0, 1.0, read, None, None, slots, None, pool, requests, lens, 0.3, **extras()
    )
    assert torch.equal(read, out)  # without new keys it reads what is stored


def test_sglang_finds_its_attention_among_torch_ops(kernel: Any) -> None:
    assert torch.ops.sgl_kernel.extend_attention_cpu is kernel.extend_attention_cpu
    assert torch.ops.sgl_kernel.decode_attention_cpu is kernel.decode_attention_cpu
    assert not hasattr(torch.ops.sgl_kernel, "convert_weight_packed")  # SGLang's test for the compiled kernels


def test_what_is_not_supplied_is_refused_by_name(kernel: Any) -> None:
    one, some = torch.tensor([1]), torch.zeros(16, dtype=torch.long)
    table = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(NotImplementedError, match=r"build_tree_kernel_efficient_cpu builds chains .* topk is 4"):
        kernel.build_tree_kernel_efficient_cpu(None, None, one, some, some, table, table, table, 4, 3, 4, 1)
    with pytest.raises(NotImplementedError, match=r"build_tree_kernel_efficient_cpu makes no mask of mode 0"):
        kernel.build_tree_kernel_efficient_cpu(None, None, one, some, some, table, table, table, 1, 3, 4, 0)
    with pytest.raises(NotImplementedError, match=r"build_draft_decode_metadata_cpu lists chains .* topk is 2"):
        kernel.build_draft_decode_metadata_cpu(table, one, one, 2, 3, 4)
    with pytest.raises(NotImplementedError, match=r"verify_tree_greedy_cpu verifies chains .* siblings"):
        kernel.verify_tree_greedy_cpu(some, table, one, table, table, table, table, table)
    with pytest.raises(NotImplementedError, match=r"tree_speculative_sampling_target_only is not supplied"):
        kernel.tree_speculative_sampling_target_only()  # verification above temperature 0
    refused = {"logit_cap": 30.0, "sliding_window": 128, "sinks": some, "encoder_lens": 0 * one}
    refused |= {"is_cross_attention": True}
    for name, value in refused.items():
        with pytest.raises(
            NotImplementedError, match=r"decode_attention_cpu is plain .* asked for " + name.removeprefix("is_")
        ):
            kernel.decode_attention_cpu(
                None, None, None, 1, 1, None, None, None, None, None, table, one, one, 1.0, **extras(**{name: value})
            )
    for other, said in (({"tree_mask": some}, "tree_mask"), ({"is_causal": False}, "attention_to_later_tokens")):
        with pytest.raises(NotImplementedError, match=f"extend_attention_cpu is plain .* asked for {said}"):
            kernel.extend_attention_cpu(
                None, None, None, None, None, None, 1, 1, table, one, one, one, one, 1, 1.0,
                **extras(**{"tree_mask": None, "is_causal": True, **other}),
            )  # fmt: skip

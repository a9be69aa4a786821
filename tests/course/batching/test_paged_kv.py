"""Paged attention computes what the contiguous cache computes, wherever the blocks lie and whoever else is there."""

import random

import pytest
import torch

from shared.course.batching.paged_kv import PagedKV
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.models import ModelChoice
from shared.models.llama import Llama
from tests.helpers.tiny_llama import CONFIGS, tiny


@pytest.fixture(scope="module")
def llama(model: ModelChoice) -> Llama:
    return Llama.load(model.weights("hf"), torch.float32)


@pytest.fixture(scope="module")
def prompts(llama: Llama, model: ModelChoice) -> list[list[int]]:
    """Prompts of different lengths."""
    return [llama.prompt_ids(chat(model, q))[:n] for q, n in zip(CHECK_QUESTIONS, (31, 5, 25, 17), strict=False)]


def alone(llama: Llama, ids: list[int]) -> torch.Tensor:
    """Logits after the last of these tokens, by the reference."""
    return llama.forward(torch.tensor([ids]), llama.new_cache(1, len(ids)))[0]


def scattered(count: int, each: int) -> list[list[int]]:
    """Block tables for `count` sequences, as blocks lie after a while: in no order."""
    numbers = list(range(count * each))
    random.Random(1).shuffle(numbers)
    return [numbers[i * each : (i + 1) * each] for i in range(count)]


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


def test_prefill_and_decode_in_one_step_equal_each_alone(llama: Llama, prompts: list[list[int]]) -> None:
    """One sequence decodes, one is at a chunk in the middle of its prompt, two begin."""
    kv, tables = PagedKV(llama, 12, 16), scattered(4, 3)
    decoding, chunked, *fresh = prompts
    first = kv.forward([(decoding, 0, tables[0]), (chunked[:2], 0, tables[1])])
    close(first[0], alone(llama, decoding))
    token = int(first[0].argmax())
    rows = [
        ([token], len(decoding), tables[0]),
        (chunked[2:], 2, tables[1]),
        (fresh[0], 0, tables[2]),
        (fresh[1], 0, tables[3]),
    ]
    mixed = kv.forward(rows)
    for got, ids in zip(mixed, ([*decoding, token], chunked, *fresh), strict=True):
        close(got, alone(llama, ids))


@pytest.mark.parametrize("block_size", [1, 4, 32])
def test_the_size_of_a_block_changes_nothing(llama: Llama, prompts: list[list[int]], block_size: int) -> None:
    each = -(-32 // block_size)
    kv, tables = PagedKV(llama, 2 * each, block_size), scattered(2, each)
    got = kv.forward([(prompts[2], 0, tables[0]), (prompts[3], 0, tables[1])])
    close(got[0], alone(llama, prompts[2]))
    close(got[1], alone(llama, prompts[3]))


def test_what_another_sequence_left_in_a_block_is_never_seen(llama: Llama, prompts: list[list[int]]) -> None:
    kv = PagedKV(llama, 2, 16)
    kv.pool.fill_(1e3)
    close(kv.forward([(prompts[1], 0, [1])])[0], alone(llama, prompts[1]))


def test_a_table_without_room_is_an_error_not_an_overwrite(llama: Llama, prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="1 blocks of 16 tokens can't hold 31"):
        PagedKV(llama, 4, 16).forward([(prompts[0], 0, [2])])


@pytest.mark.parametrize("name", CONFIGS)
def test_heads_with_norms_and_biases_are_computed_too(name: str) -> None:
    llama, _ = tiny(CONFIGS[name])
    ids = [3, 1, 4, 1, 5]
    kv = PagedKV(llama, 3, 2)
    close(kv.forward([(ids, 0, [2, 0, 1])])[0], alone(llama, ids))

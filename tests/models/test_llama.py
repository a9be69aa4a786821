"""The reference equals transformers, in whatever way the tokens are fed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from shared import LabError
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.metrics.correctness import gap_fault
from shared.models import ModelChoice
from shared.models.llama import Llama, frequencies, greedy_gap
from tests.helpers.tiny_llama import CONFIGS, SCALED, tiny, weights_of


@pytest.fixture(scope="module")
def llama(model: ModelChoice) -> Llama:
    return Llama.load(model.weights("hf"), torch.float32)


@pytest.fixture(scope="module")
def prompts(llama: Llama, model: ModelChoice) -> list[list[int]]:
    """Three prompts of different lengths."""
    return [llama.prompt_ids(chat(model, q))[:n] for q, n in zip(CHECK_QUESTIONS, (31, 12, 25), strict=False)]


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.tensor([len(r) for r in rows])
    ids = torch.zeros(len(rows), int(counts.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, counts


def test_logits_equal_transformers_for_a_batch_of_different_lengths(
    llama: Llama, prompts: list[list[int]], model: ModelChoice
) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(model.weights("hf"), dtype=torch.float32)
    ids, counts = padded(prompts)
    cache = llama.new_cache(3, 64)
    ours = llama.forward(ids, cache, counts)
    following = ours.argmax(-1)
    decoded = llama.forward(following[:, None], cache)
    with torch.inference_mode():
        for row, prompt in enumerate(prompts):
            whole = torch.tensor([[*prompt, int(following[row])]])
            expected = theirs(whole, attention_mask=torch.ones_like(whole)).logits[0]
            torch.testing.assert_close(ours[row], expected[-2], atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(decoded[row], expected[-1], atol=2e-4, rtol=1e-4)


def test_prefill_in_chunks_equals_prefill_at_once(llama: Llama, prompts: list[list[int]]) -> None:
    prompt = torch.tensor([prompts[0]])
    whole = llama.forward(prompt, llama.new_cache(1, 64), every=True)
    cache = llama.new_cache(1, 64)
    parts = [llama.forward(chunk, cache, every=True) for chunk in prompt.split(7, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-4, rtol=1e-4)
    assert cache.lengths.tolist() == [len(prompts[0])]


def test_a_sequence_does_not_depend_on_its_neighbours(llama: Llama, prompts: list[list[int]]) -> None:
    together = llama.generate(prompts, 12)
    assert together == [llama.generate([prompt], 12)[0] for prompt in prompts]


def test_a_full_cache_is_an_error_not_an_overwrite(llama: Llama, prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="room for 8 tokens"):
        llama.forward(torch.tensor([prompts[0]]), llama.new_cache(1, 8))


def test_the_template_gives_the_known_prompt(llama: Llama, model: ModelChoice) -> None:
    text = llama.tokenizer.decode(llama.prompt_ids(chat(model, "Hi")))
    expected = f"<|im_start|>system\n{model.system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert text == expected


def test_numbers_are_split_into_digits(llama: Llama) -> None:
    ids = llama.tokenizer.encode("2048 tokens", add_special_tokens=False)
    assert [llama.tokenizer.decode([i]) for i in ids] == ["2", "0", "4", "8", " tokens"]


def test_its_own_greedy_text_has_no_gap(llama: Llama, model: ModelChoice) -> None:
    messages = chat(model, CHECK_QUESTIONS[0])
    [tokens] = llama.generate([llama.prompt_ids(messages)], 32)
    gaps = greedy_gap(llama, messages, tokens)
    assert len(gaps) == len(tokens) > 20
    assert max(gaps) < 1e-3


def test_an_answer_that_ends_too_early_is_caught(llama: Llama, model: ModelChoice) -> None:
    messages = chat(model, "What is the capital of France? Answer with one word.")
    [whole] = llama.generate([llama.prompt_ids(messages)], 48)
    assert len(whole) < 48, "the model ends this answer itself"
    right = greedy_gap(llama, messages, whole, ended=True)
    assert len(right) == len(whole) + 1
    assert gap_fault(right) is None
    early = greedy_gap(llama, messages, whole[:2], ended=True)
    assert gap_fault(early)
    assert gap_fault(early[:-1]) is None, "its tokens are right, only its end is not"
    assert gap_fault(greedy_gap(llama, messages, [], ended=True)), "no answer at all"


def test_bfloat16_stays_within_the_limits(llama: Llama, model: ModelChoice) -> None:
    rounded = Llama.load(model.weights("hf"), torch.bfloat16)
    chats = [chat(model, question) for question in CHECK_QUESTIONS]
    answers = rounded.generate([rounded.prompt_ids(messages) for messages in chats], 48)
    gaps = [gap for m, tokens in zip(chats, answers, strict=True) for gap in greedy_gap(llama, m, tokens)]
    assert gap_fault(gaps) is None
    assert max(gaps) > 0  # it does round


def test_a_wrong_template_is_caught(llama: Llama, model: ModelChoice) -> None:
    plain = llama.tokenizer.encode("user: What is gravity?\nassistant:", add_special_tokens=False)
    [tokens] = llama.generate([plain], 32)
    assert gap_fault(greedy_gap(llama, chat(model, "What is gravity?"), tokens))


def test_a_missing_system_message_is_caught(llama: Llama, model: ModelChoice) -> None:
    gaps: list[float] = []
    for question in CHECK_QUESTIONS[:6]:
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        [tokens] = llama.generate([llama.tokenizer.encode(text, add_special_tokens=False)], 32)
        gaps += greedy_gap(llama, chat(model, question), tokens)
    assert gap_fault(gaps)


def test_another_model_is_caught(llama: Llama, model: ModelChoice) -> None:
    """The closest other model: this one without one of its thirty layers."""
    other = Llama.load(model.weights("hf"), torch.float32)
    for weights in (other.qkv, other.out, other.gate_up, other.down, other.attn_norm, other.mlp_norm):
        del weights[12]
    other.layers -= 1
    messages = chat(model, CHECK_QUESTIONS[0])
    [tokens] = other.generate([other.prompt_ids(messages)], 32)
    assert gap_fault(greedy_gap(llama, messages, tokens))


def test_a_damaged_weight_file_is_refused_before_it_is_loaded(model: ModelChoice, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(model.folder, copy, ignore=shutil.ignore_patterns("*.gguf"))
    damaged = replace(model, folder=copy)
    assert damaged.weights("hf") == copy / "hf"
    file = copy / "hf" / "model.safetensors"
    with file.open("r+b") as f:
        f.seek(100_000_000)
        f.write(b"\0")
    with pytest.raises(LabError, match=r"was altered.*\nFix: rm -r .*make engines"):
        damaged.weights("hf")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(LabError, match="has 1000 bytes, but the set-up wrote 269"):
        damaged.weights("hf")
    file.unlink()
    with pytest.raises(LabError, match="is missing"):
        damaged.weights("hf")
    (copy / "manifest.json").write_text("{")
    with pytest.raises(LabError, match="The model is not in"):
        damaged.weights("hf")


@pytest.mark.parametrize("name", CONFIGS)
def test_each_architecture_equals_transformers(name: str) -> None:
    ours, theirs = tiny(CONFIGS[name])
    ids = torch.randint(
        3, 300, (1, 200), generator=torch.Generator().manual_seed(1)
    )  # more than 64 tokens, where scaling has an effect
    cache = ours.new_cache(1, 200)
    parts = [ours.forward(chunk, cache, every=True) for chunk in ids.split(150, 1)]
    with torch.inference_mode():
        expected = theirs(ids).logits
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-4, rtol=1e-4)
    assert expected.std() > 0.05  # not all alike


def test_the_older_way_to_write_positions_is_read_too() -> None:
    old = {"rope_theta": 500.0, "rope_scaling": {k: v for k, v in SCALED.items() if k != "rope_theta"}}
    new = {"rope_parameters": SCALED}
    assert torch.equal(frequencies(old, 32), frequencies(new, 32))
    assert not torch.equal(frequencies(new, 32), frequencies({"rope_theta": 500.0}, 32))


def test_what_it_does_not_compute_is_refused() -> None:
    config = {**CONFIGS["llama"].to_dict(), "architectures": ["LlamaForCausalLM"]}
    weights = weights_of(tiny(CONFIGS["llama"])[1])
    Llama(config, weights, None)
    more = {**weights, "model.layers.1.self_attn.o_proj.bias": torch.zeros(64)}
    with pytest.raises(LabError, match=r"can't compute the weight model\.layers\.1\.self_attn\.o_proj\.bias"):
        Llama(config, more, None)
    for change, said in (
        ({"architectures": ["GemmaForCausalLM"]}, "is GemmaForCausalLM, but only LlamaForCausalLM"),
        ({"architectures": None}, "its architecture is unknown"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scaled by 'yarn'"),
        ({"use_sliding_window": True}, "sliding-window attention"),
        ({"hidden_act": "gelu"}, "other than silu"),
    ):
        with pytest.raises(LabError, match=said):
            Llama({**config, **change}, weights, None)


def test_any_of_several_end_tokens_ends_an_answer() -> None:
    ours, _ = tiny(CONFIGS["qwen2"])
    [free] = ours.generate([[5, 6, 7]], 12, stop_at_eos=False)
    assert len(free) == 12
    ours.ends = frozenset({299 if 299 not in free else 298, free[4]})
    assert ours.generate([[5, 6, 7]], 12) == [free[: free.index(free[4])]]
    assert ours.generate([[5, 6, 7]], 12, stop_at_eos=False) == [free]

"""Real engines with drafts: greedy text stays within the reference's gap, and the counters move."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared import LabError, launch, paths
from shared.course.speculation.eagle3 import head_gguf
from shared.course.speculation.on_engines.questions import HELD_OUT, questions_of
from shared.engines import Draft
from shared.engines.draft_counts import DraftCounts, draft_counts
from shared.engines.http import counters, post_json
from shared.launch.running import Engine
from shared.load.prompts import chat
from shared.metrics.correctness import Reference, check_greedy, gap_fault
from shared.models import ModelChoice

HEAD = paths.REPO / "environment" / "eagle3_head"
COPY = "Repeat this sentence three times: The quick brown fox jumps over the lazy dog and sleeps in the warm sun."
HEAD_DRAFT = Draft("eagle3", 3, HEAD)
SLOT = {"-np": 2, "-c": 512}  # 256 tokens for each of two sequences


@pytest.fixture(autouse=True, scope="module")
def nothing_left() -> Iterator[None]:
    yield
    launch.stop_all()


@pytest.fixture(scope="module")
def reference(model: ModelChoice) -> Reference:
    return Reference.load(model, questions=3)


def llamacpp(model: ModelChoice, draft: Draft | None, **flags: object) -> Engine:
    """One core: two threads that wait for each other crawl while other tests run."""
    more = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    return launch.launch("llamacpp", model, {**SLOT, **more}, draft=draft, cores=1, quiet=True)


def counted(engine: Engine, before: dict[str, float]) -> DraftCounts:
    after = counters(engine)
    counts = draft_counts(engine.spec, engine.draft, {name: after[name] - before.get(name, 0.0) for name in after})
    assert counts
    return counts


def ask(engine: Engine, question: str, **more: Any) -> dict[str, Any]:
    body = {"model": engine.served_name, "messages": chat(engine.model, question), "temperature": 0, **more}
    return post_json(engine.url + "/v1/chat/completions", body, 600)


def check_text(engine: Engine, reference: Reference) -> DraftCounts:
    """Judge every token of its answers, and return what was drafted for them."""
    before = counters(engine)
    values, answers = check_greedy(engine, reference)
    assert values["equal_prompts"] == len(reference.chats)
    assert gap_fault([gap for answer in answers for gap in answer["gaps"]]) is None
    counts = counted(engine, before)
    assert counts.drafted >= counts.accepted > 0
    assert counts.drafted <= counts.verifications * (engine.draft.tokens if engine.draft else 0)
    if counts.accepted_at is not None:
        assert sum(counts.accepted_at) == counts.accepted
        assert list(counts.accepted_at) == sorted(counts.accepted_at, reverse=True)
    return counts


@pytest.mark.programs
def test_llamacpp_with_a_head(model: ModelChoice, reference: Reference) -> None:
    engine = llamacpp(model, Draft("eagle3", 3, head_gguf.path(model)))
    check_text(engine, reference)
    before = counters(engine)
    answer = ask(engine, "What is gravity?", max_tokens=32)
    counts, own = counted(engine, before), answer["timings"]
    assert (own["draft_n"], own["draft_n_accepted"]) == (counts.drafted, counts.accepted)
    # The context is full in the middle of a draft: the answer ends there, and the next one is right.
    full = ask(engine, "Tell me a long story.", max_tokens=4000, ignore_eos=True, cache_prompt=False)
    assert full["choices"][0]["finish_reason"] == "length"
    assert full["usage"]["total_tokens"] <= 256
    again = ask(engine, "What is gravity?", max_tokens=32, cache_prompt=False)
    assert again["choices"][0]["message"] == answer["choices"][0]["message"]


@pytest.mark.programs
def test_llamacpp_accepts_as_many_drafts_of_two_sequences_at_once(model: ModelChoice) -> None:
    engine = llamacpp(model, Draft("eagle3", 2, head_gguf.path(model)))
    questions = questions_of(HELD_OUT, 64)[:8]
    accepted = []
    for at_once in (1, 2):
        before = counters(engine)
        with ThreadPoolExecutor(at_once) as pool:
            list(
                pool.map(lambda text: ask(engine, text, max_tokens=48, ignore_eos=True, cache_prompt=False), questions)
            )
        accepted.append(counted(engine, before).acceptance)
    alone, together = accepted
    assert alone
    assert together
    assert together > 0.9 * alone  # one sequence of two would give half; a near-tie may change a text


@pytest.mark.programs
def test_llamacpp_with_look_up(model: ModelChoice, reference: Reference) -> None:
    engine = llamacpp(model, Draft("ngram", 6))
    before = counters(engine)
    ask(engine, COPY, max_tokens=64)
    copied = counted(engine, before)
    assert copied.drafted >= copied.accepted > 0
    _, answers = check_greedy(engine, reference)
    assert gap_fault([gap for answer in answers for gap in answer["gaps"]]) is None


@pytest.mark.programs
def test_llamacpp_with_its_own_smaller_weights(model: ModelChoice, reference: Reference) -> None:
    check_text(llamacpp(model, Draft("model", 3, model.weights("Q4_0"))), reference)


@pytest.mark.programs
def test_llamacpp_accepts_at_random_when_told_to(model: ModelChoice) -> None:
    draft = Draft("eagle3", 3, head_gguf.path(model), synthetic_length=4)
    engine = llamacpp(model, draft)
    before = counters(engine)
    ask(engine, "What is gravity?", max_tokens=64, ignore_eos=True)
    assert counted(engine, before).acceptance == 1


@pytest.mark.programs
def test_llamacpp_and_a_draft_with_another_vocabulary(model: ModelChoice, tmp_path: Path) -> None:
    """Refused before the start by the files, and at the start where only flags name the draft."""
    content = model.weights("Q4_0").read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(content.replace("Ġgravity".encode(), "Ġgravitx".encode(), 1))
    with pytest.raises(LabError, match=rf"other\.gguf doesn't fit {model.name}: its vocabulary has other tokens"):
        llamacpp(model, Draft("model", 3, other))
    with pytest.raises(LabError, match=r"llama\.cpp started without its draft: draft model vocab"):
        llamacpp(model, None, spec_type="draft-simple", spec_draft_model=other)


@pytest.mark.drill
def test_vllm_with_a_head(model: ModelChoice, reference: Reference) -> None:
    flags = {"--max-num-seqs": 3, "--max-model-len": 256, "--enforce-eager": True}
    with launch.launch("vllm", model, flags, draft=HEAD_DRAFT, cores=1, quiet=True, timeout_s=900) as engine:
        counts = check_text(engine, reference)
        assert counts.accepted_at is not None
        full = ask(engine, "Tell me a long story.", ignore_eos=True)
        assert full["choices"][0]["finish_reason"] == "length"
        assert full["usage"]["total_tokens"] == 256
        warm = [ask(engine, "What is gravity?", max_tokens=12, temperature=1, seed=seed) for seed in range(6)]
        assert len({answer["choices"][0]["message"]["content"] for answer in warm}) > 1  # it samples with drafts too


@pytest.mark.drill
def test_sglang_with_a_head(model: ModelChoice, reference: Reference) -> None:
    flags = {"--max-running-requests": 3, "--max-total-tokens": 2048}
    with launch.launch("sglang", model, flags, draft=HEAD_DRAFT, cores=1, quiet=True, timeout_s=900) as engine:
        check_text(engine, reference)
        before = counters(engine)
        prompt = {"text": "Gravity is", "sampling_params": {"max_new_tokens": 32, "temperature": 0, "ignore_eos": True}}
        own = post_json(engine.url + "/generate", prompt, 600)["meta_info"]
        counts = counted(engine, before)
        assert counts.verifications == own["spec_verify_ct"]
        assert counts.drafted == own["spec_num_proposed_drafts"]
        # Drafts accepted beyond the end of the answer are in its own number only.
        assert 0 <= own["spec_num_correct_drafts"] - counts.accepted <= 3
        # Its counters have no positions, but its answers do: how many verifications accepted 0, 1, 2, 3 drafts.
        details = ask(engine, "What is gravity?", max_tokens=32, ignore_eos=True, return_spec_tokens_details=True)
        histogram = details["sglext"]["spec_tokens_details"]["spec_correct_drafts_histogram"]
        assert 1 < len(histogram) <= 4
        assert sum(histogram) == details["sglext"]["spec_tokens_details"]["spec_verify_ct"]

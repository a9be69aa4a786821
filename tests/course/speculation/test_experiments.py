"""The lab's measurements: what is asked, and one real llama.cpp with and without its drafts."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from shared import models, paths
from shared.course import labs
from shared.course.speculation import choose, experiments, speedups
from shared.course.speculation.eagle3 import training_text
from shared.course.speculation.on_engines import drafts_here, first_tokens
from shared.course.speculation.on_engines.questions import HELD_OUT, Questions
from shared.course.speculation.speedups import Setting
from shared.errors import LabError
from shared.hardware import Machine
from shared.launch import launch
from shared.launch.running import Engine
from shared.load import prompts
from shared.models import ModelChoice

LAB = labs.OpenLab("3.3.4")
SIZES = replace(drafts_here.SIZES["quick"], tokens=16, samples=12)


@pytest.mark.parametrize("group", experiments.GROUPS)
def test_questions_are_held_out_long_enough_and_asked_as_they_were_trained(group: str, model: ModelChoice) -> None:
    questions = experiments.questions_of(group, 64)
    assert len(questions) == len(set(questions)) >= 32  # for 16 users in two rounds; a third one repeats a few
    assert all(len(one) > 0 and "<|im_" not in one for one in questions)
    asked = list(islice(Questions(group, model, questions, first=2), 2))
    assert [one[-1]["content"] for one in asked] == list(questions[2:4])
    assert {one[0]["content"] for one in asked} == {model.system}  # no nonce


def test_the_prompt_of_a_question_has_the_tokens_that_the_head_was_trained_on(model: ModelChoice) -> None:
    text = training_text.load(paths.REPO / "environment" / "eagle3_head" / "text.npz")
    tokenizer = prompts.tokenizer(model.folder / "hf")
    stored = {tuple(text.row(row)[: text.prompt_tokens[row]].tolist()) for row in text.rows(True)}
    question = experiments.questions_of(HELD_OUT, 64)[0]
    made = tokenizer.apply_chat_template(prompts.chat(model, question), add_generation_prompt=True, tokenize=False)
    assert tuple(tokenizer.encode(made, add_special_tokens=False)) in stored


def test_longer_answers_than_the_text_has_are_refused() -> None:
    with pytest.raises(LabError, match="No answer of the group 'code' has 999 tokens"):
        experiments.questions_of("code", 999)


def test_rounds_ask_other_questions_and_end_with_the_text(model: ModelChoice) -> None:
    few = Questions("code", model, ("a", "b", "c"), first=2)
    assert [one[-1]["content"] for one in islice(few, 3)] == ["c", "a", "b"]


def test_a_spark_measures_the_drafts_that_it_can_load(
    spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts_here, "detect", lambda: spark)
    drafted = {
        engine: [drafts_here.name_of(one) for one in experiments.drafts_of(engine, spark_model, SIZES)]
        for engine in ("llamacpp", "vllm", "sglang")
    }
    assert drafted == {
        "llamacpp": ["plain", "model-2", "model-3", "model-8", "ngram-8"],  # it knows no head there
        "vllm": ["plain", "eagle3-3"],
        "sglang": ["eagle3-3"],  # its plain decoding is measured at the full size only
    }


def test_a_small_model_takes_the_heads_place_on_a_spark(
    spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts_here, "detect", lambda: spark)
    assert drafts_here.main_kind(spark_model) == "model"
    every = experiments.drafts_of("llamacpp", spark_model, SIZES)
    few = experiments.few_drafts(every, spark_model)
    assert [drafts_here.name_of(one) for one in few] == ["plain", "model-2", "ngram-8"]
    rejected = experiments.rejected_drafts(LAB, spark_model, SIZES)
    assert [(one.kind, one.tokens, one.synthetic_length, one.path) for one in rejected] == [
        ("model", k, 1, None) for k in SIZES.synthetic
    ]


def test_what_no_draft_of_a_machine_can_show_is_said_and_recorded(
    spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drafts_here, "detect", lambda: spark)
    without = replace(spark_model, drafts={})
    assert drafts_here.main_kind(without) == "ngram"
    assert experiments.rejected_drafts(LAB, without, SIZES) == []
    assert "Without synthetic acceptance and the cost model: the catalogue names no head" in capsys.readouterr().out
    assert "no draft costs a pass" in LAB.values("synthetic/llamacpp")["missing"]


def test_without_a_gpu_the_head_is_the_main_draft(model: ModelChoice) -> None:
    every = experiments.drafts_of("llamacpp", model, SIZES)
    few = experiments.few_drafts(every, model)
    assert [drafts_here.name_of(one) for one in few] == ["plain", "eagle3-2", "ngram-8"]
    assert {one.kind for one in experiments.rejected_drafts(LAB, model, SIZES)} == {"eagle3"}


@pytest.mark.parametrize("size", drafts_here.SIZES.values(), ids=drafts_here.SIZES)
def test_sizes_fit_the_engines(size: drafts_here.Sizes) -> None:
    assert size.tokens >= 64
    assert size.few_rounds <= size.further_rounds <= size.rounds  # a round is compared with plain decoding's same round
    assert max((*size.users, *size.plain_users)) <= drafts_here.SLOTS
    assert set(size.users) <= set(size.plain_users)  # each speed-up is over plain decoding of as many users
    assert len(size.plain_users) >= 3  # so that the cost model's passes aren't a straight line by construction
    assert size.questions <= len(prompts.CHECK_QUESTIONS)


@pytest.mark.parametrize("size", drafts_here.SIZES.values(), ids=drafts_here.SIZES)
def test_every_size_checks_the_text_of_each_draft_that_a_later_cell_needs(
    size: drafts_here.Sizes, model: ModelChoice
) -> None:
    checked = [drafts_here.name_of(one) for one in experiments.drafts_of("llamacpp", model, size)]
    assert {drafts_here.name_of(one) for one in choose.options(model)} <= set(checked)
    of_others = {one for engine in ("vllm", "sglang") for one in experiments.drafts_of(engine, model, size) if one}
    heads = {drafts_here.name_of(one) for one in of_others if one.kind == "eagle3"}
    assert heads == {"eagle3-3"}
    assert heads <= set(checked)  # the picture compares the same head with as many drafts on three engines
    assert "model-3" in checked


def test_each_engine_gets_the_draft_in_the_form_that_it_loads(model: ModelChoice) -> None:
    full = drafts_here.SIZES["full"]
    drafts = {name: experiments.drafts_of(name, model, full) for name in ("llamacpp", "vllm", "sglang")}
    assert all(found[0] is None for found in drafts.values())
    assert [drafts_here.name_of(one) for one in drafts["llamacpp"]][-2:] == ["ngram-8", "model-3"]
    assert [drafts_here.name_of(one) for one in drafts["sglang"]] == ["plain", "eagle3-3"]
    head = {name: found[1].path for name, found in drafts.items() if found[1]}
    assert head["llamacpp"] is not None
    assert head["llamacpp"].suffix == ".gguf"
    assert head["vllm"] == head["sglang"]
    assert head["vllm"] is not None
    assert (head["vllm"] / "config.json").exists()


def test_the_quick_size_starts_sglang_once(model: ModelChoice) -> None:
    found = experiments.drafts_of("sglang", model, drafts_here.SIZES["quick"])
    assert [drafts_here.name_of(one) for one in found] == ["eagle3-3"]


def test_one_user_has_every_round_and_many_users_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, str]] = []
    monkeypatch.setattr(
        experiments, "speed", lambda lab, engine, number, sizes, *, users, group: asked.append((number, users, group))
    )
    engine: Any = None
    for number in (1, 2, 3):
        experiments.speeds(LAB, engine, number, replace(SIZES, few_rounds=2), (1, 16))
    assert asked == [(number, users, HELD_OUT) for number, users in ((1, 1), (1, 16), (2, 1), (2, 16), (3, 1))]
    asked.clear()
    choose.measure_surface(LAB, engine, 2, replace(SIZES, few_rounds=1))
    assert asked == [(2, 1, HELD_OUT), (2, 1, choose.COPYING)]


@pytest.fixture(scope="module")
def started(machine: Machine) -> Iterator[Any]:
    """Starts llama.cpp with a draft, small enough for a test. The engine before it is ended."""
    model = models.choose(machine)

    def start(kind: str = "", tokens: int = 0, length: float | None = None) -> Engine:
        with_draft = experiments.draft("llamacpp", kind, tokens, model, length) if kind else None
        return launch("llamacpp", model, {"-np": 4, "-c": 2048}, draft=with_draft, quiet=True)

    yield start
    launch("llamacpp", model, {"-np": 4, "-c": 2048}, quiet=True).end()


@pytest.mark.engine
def test_llamacpp_with_and_without_drafts(started: Any, model: ModelChoice) -> None:
    reference = experiments.load_reference(model, 2)
    for draft in ((), ("eagle3", 2), ("ngram", 4)):
        engine = started(*draft)
        checked = experiments.check_text(LAB, engine, reference)
        assert checked["texts"] == 3  # with the one that is copied
        assert checked.get("drafted", 0) > 0 or not draft
        experiments.speed(LAB, engine, 1, SIZES)
        experiments.speed(LAB, engine, 1, SIZES, users=2, temperature=1)
        first_tokens.measure(LAB, engine, SIZES)
    found = speedups.from_lab(LAB)
    plain, drafted = found[Setting("llamacpp")], found[Setting("llamacpp", "eagle3", 2)]
    assert plain.tokens == drafted.tokens == SIZES.tokens - 1
    assert drafted.counts is not None
    assert drafted.counts.accepted_at is not None
    assert drafted.counts.accepted == sum(drafted.counts.accepted_at)
    assert drafted.steps is not None
    assert drafted.counts.verifications <= drafted.steps <= drafted.tokens
    assert Setting("llamacpp", "eagle3", 2, users=2, temperature=1) in found
    pairs = {key: LAB.raw(key) for key in LAB.results() if key.startswith("first-tokens/")}
    assert len(pairs) == 3
    assert len({str(found) for found in pairs.values()}) == 3  # independent samples: other seeds
    assert all(len(found) == SIZES.samples and {len(one) for one in found} == {2} for found in pairs.values())


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["eagle3", "model"])
def test_synthetic_acceptance_is_what_was_asked_for(started: Any, kind: str) -> None:
    for length in (1, 4):
        experiments.synthetic(LAB, started(kind, 3, length), 1, SIZES)
    found = speedups.from_lab(LAB, "synthetic/")
    none, every = (found[Setting("llamacpp", kind, 3, synthetic=length)] for length in (1, 4))
    assert none.counts is not None
    assert every.counts is not None
    assert none.counts.accepted == 0
    assert none.tokens_per_step == 1
    assert every.counts.accepted == pytest.approx(every.counts.drafted, abs=3)  # an end token is never accepted
    with pytest.raises(LabError, match="no synthetic acceptance"):
        experiments.synthetic(LAB, started(kind, 3), 1, SIZES)


class Greedy:
    """An engine that answers at temperature 0 only. Nothing else of it may be asked."""

    def check_temperature(self, temperature: float) -> None:
        if temperature:
            raise LabError("greedy only", "ask at temperature 0")


def test_an_engine_that_verifies_greedily_is_not_measured_at_a_temperature() -> None:
    engine: Any = Greedy()
    for measure in (lambda: experiments.speed(LAB, engine, 1, SIZES, temperature=0.7),
                    lambda: first_tokens.measure(LAB, engine, SIZES)):  # fmt: skip
        with pytest.raises(LabError, match="greedy only"):
            measure()

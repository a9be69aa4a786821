"""The curve's rounds, ratios and fit, the quality of a precision, and the mix of prompts: on made-up runners."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shared.course.prefill import curve, experiments, mix, prefill_report, quality
from shared.course.prefill.ahead_of_time.build import Recipe
from shared.errors import LabError
from shared.metrics.spread import number


class Made:
    """A runner that takes `ms` per token, answers with fixed logits, and notes what it was asked."""

    def __init__(self, ms: float = 1.0, logits: Sequence[float] = (0.0, 0.0, 0.0, 0.0)) -> None:
        self.ms, self.logits = ms, np.array(logits)
        self.asked: list[list[int]] = []

    def __call__(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        self.asked.append(list(ids))
        return self.logits

    def time_s(self, ids: Sequence[int], repeats: int = 1) -> list[float]:
        self.asked.append(list(ids))
        return [self.ms * len(ids) / 1e3] * repeats


def test_every_runner_gets_every_length_in_every_round() -> None:
    runners = {"a": Made(1.0), "b": Made(2.0)}
    times = curve.measure(runners, (4, 8), 5, 100)
    assert times["a"] == {4: [4.0] * 5, 8: [8.0] * 5}
    assert times["b"] == {4: [8.0] * 5, 8: [16.0] * 5}
    assert sorted(map(tuple, runners["a"].asked)) == sorted(map(tuple, runners["b"].asked))
    assert len({tuple(ids) for ids in runners["a"].asked}) == 2 * 6  # a prompt is never repeated
    assert curve.restored(curve.values(times)) == times


def test_long_prompts_have_few_rounds() -> None:
    times = curve.measure({"a": Made(1.0)}, (4, curve.LONG), 5, 100)
    assert {n: len(rounds) for n, rounds in times["a"].items()} == {4: 5, curve.LONG: curve.LONG_ROUNDS}


def test_a_ratio_has_an_interval_and_may_have_no_winner() -> None:
    times = {"ours": {8: [10, 11, 10, 12, 10]}, "eager": {8: [20, 21, 20, 22, 20]}, "same": {8: [11, 10, 12, 10, 11]}}
    found = curve.against(times, "ours", "eager", 8)
    assert (found.clear, round(found.times, 2)) == (True, 2.0)
    assert found.low <= found.times <= found.high
    assert not curve.against(times, "ours", "same", 8).clear
    assert "no winner" in str(curve.against(times, "ours", "same", 8))
    assert curve.best(times, ("ours", "same"), "eager", 8) == ("ours", found)


def test_a_gain_in_every_round_wins_although_the_machine_drifts() -> None:
    drifting = {"eager": {8: [11, 22, 33, 22, 11]}, "ours": {8: [10, 20, 30, 20, 10]}}
    assert str(curve.against(drifting, "ours", "eager", 8)) == "1.10× (1.10–1.10)"


def test_a_fit_is_judged_on_lengths_that_it_has_not_seen() -> None:
    fit = curve.Fit(10.0, 0.2, 1e-4)
    assert fit.ms(100) == pytest.approx(31.0)
    errors = fit.errors_percent({100: [31.0] * 5, 200: [27.0] * 5})
    assert errors[100].median == pytest.approx(0)
    assert errors[200].median == pytest.approx(100 * (54 / 27 - 1))


def test_perplexity_and_gaps_of_known_logits() -> None:
    even = Made(logits=(1.0, 1.0, 1.0, 1.0))
    assert quality.surprise(even, [0, 1, 2, 3, 0], first=2) == pytest.approx([math.log(4)] * 3)
    assert even.asked == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    run, reference = Made(logits=(0.0, 5.0, 0.0, 0.0)), Made(logits=(0.0, 1.5, 2.0, 0.0))
    assert quality.greedy(run, [3], 2) == [1, 1]
    assert run.asked == [[3], [3, 1]]
    assert quality.gaps(reference, [3], [1, 2]) == pytest.approx([0.5, 0.0])
    calls: list[int] = []
    both = {"it": run, "the reference": reference}
    found = quality.compared(both, reference, [[1] * 20], [[3]], 2, lambda: calls.append(len(run.asked)))
    assert calls == [2 + 4, 2 + 4 + 2]  # after the text, and after the prompt
    assert (found["it"].predicted_tokens, found["it"].greedy_tokens) == (4, 2)
    assert found["it"].worst_gap_nats == pytest.approx(0.5)
    assert found["the reference"].worst_gap_nats == 0
    assert found["it"].perplexity == pytest.approx(math.exp(-float(quality.log_probabilities(run.logits)[1])))


def test_a_prompt_goes_to_the_shortest_engine_that_holds_it() -> None:
    engines = {64: Made(), 512: Made()}
    assert [mix.place(n, engines) for n in (10, 64, 65, 512)] == [64, 64, 512, 512]
    with pytest.raises(LabError, match="No engine takes a prompt of 513 tokens: the lengths are 64, 512"):
        mix.place(513, engines)
    assert mix.place(513, {64: Made(), mix.ANY: Made()}) == mix.ANY
    assert mix.padded_share((32, 64), engines) == pytest.approx(0.25)
    assert mix.padded_share((32, 64), {mix.ANY: Made()}) == 0


def test_each_try_of_a_mix_has_its_own_key_and_a_try_that_can_not_be_timed_is_refused_before_a_build() -> None:
    short, other, long = (Recipe("openvino", form, n) for form, n in (("float32", 64), ("int8", 64), ("float32", 512)))
    any_length = Recipe("openvino", "int8")
    assert mix.key("rag", [short, long]) == "mix/rag/openvino-float32-64.openvino-float32-512"
    assert mix.key("rag", [short, any_length]) == "mix/rag/openvino-float32-64.openvino-int8-any"
    with pytest.raises(LabError, match=r"There is no mix 'chats'\.\nFix: choose one of 'chat', 'summaries', 'rag'"):
        mix.key("chats", [long])
    with pytest.raises(LabError, match="is no list of recipes"):
        mix.key("chat", long)  # type: ignore[arg-type]
    with pytest.raises(LabError, match="is no list of recipes"):
        mix.key("chat", [128])  # type: ignore[list-item]
    with pytest.raises(LabError, match="for the same length: openvino-float32-64, openvino-int8-64"):
        mix.key("rag", [short, other, long])
    with pytest.raises(LabError, match="No engine takes a prompt of 128 tokens: the lengths are 64"):
        mix.key("chat", [short])
    with pytest.raises(LabError, match="No engine takes a prompt of 128 tokens: there is none"):
        mix.key("chat", [])


def test_a_mix_is_timed_way_by_way() -> None:
    ways = {"eager": {mix.ANY: Made(2.0)}, "static": {64: Made(1.0)}}
    assert mix.rounds_ms((10, 20), ways, 3, 50) == {"eager": [60.0] * 3, "static": [30.0] * 3}


class MadeKit:
    """A kit whose engines are made-up runners. It notes which of them are loaded."""

    dtype, machine = "float32", SimpleNamespace(size="quick")

    def __init__(self) -> None:
        self.open: list[str] = []
        tokenizer = SimpleNamespace(encode=lambda *_, **__: [1] * 100)
        self.model = SimpleNamespace(embedding=np.zeros((50, 1)), context=4096, tokenizer=tokenizer)

    def llama(self) -> Any:
        return self.model

    def torch(self, precision: str, compiled: bool = False) -> Made:
        return Made(2.0)

    def chats(self, count: int) -> list[list[int]]:
        return [[1, 2]] * count

    @contextlib.contextmanager
    def loaded(self, engines: Mapping[str, Any]) -> Iterator[dict[str, Made]]:
        self.open = list(engines)
        yield {name: Made(1.0) for name in engines}
        self.open = []


def test_engines_are_loaded_for_their_measurement_alone() -> None:
    kit: Any = MadeKit()
    engine: Any = object()
    found = experiments.prefill_curve(kit, {"aoti": engine})["ms"]
    assert list(found) == ["eager", "torch.compile", "aoti"]
    assert found["aoti"]["512"] == [512.0] * curve.ROUNDS["quick"]
    timed = experiments.mix_times(kit, "chat", {"any length": {mix.ANY: engine}, "yours": {64: engine, 128: engine}})
    tokens = sum(mix.MIXES["chat"])
    assert timed["ms"] == {way: [ms * tokens] * 3 for way, ms in (("eager", 2.0), ("any length", 1.0), ("yours", 1.0))}
    assert [round(share, 2) for share in timed["padding"].values()] == [0, 0, 0.27]
    cost = experiments.precision_cost(kit, {"float": engine, "int8": engine})
    assert {name: len(course["128"]) for name, course in cost["ms"].items()} == {"float": 4, "int8": 4}
    assert kit.open == []


@pytest.mark.parametrize("name", mix.MIXES)
def test_every_mix_fits_the_quick_size(name: str) -> None:
    assert max(mix.MIXES[name]) <= max(curve.QUICK)


def test_what_a_gpu_recorded_is_whole_and_names_its_source() -> None:
    speed, answers, source = prefill_report.recorded_on_a_gpu()
    assert [row[0] for row in speed.rows] == [number(n) for n in curve.FULL]
    assert [row[0] for row in answers.rows] == ["aoti", "eager"]  # eager in BF16 is the control
    assert {row[2] for row in answers.rows} == {"100 of 100"}
    assert all(one in source for one in ("2026-11-27", "H100", "driver", "torch"))
    assert all("Not this machine" in table.title for table in (speed, answers))

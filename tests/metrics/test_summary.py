"""Figures are compared with values worked out by hand."""

import dataclasses
import json
import re

import numpy as np
import pytest

from shared import LabError
from shared.load import Run, Trace
from shared.metrics import Slo, Spread, interval, knee, summarise
from shared.metrics.conventions import CONVENTIONS, gaps_ms
from shared.metrics.correctness import gap_fault
from shared.metrics.spread import Interval, clear_ratio, number, percentile

MS = 1_000_000


def trace(
    arrivals_ms: list[float], tokens: int | None, sent_ms: float, end_ms: float, cached: int | None = 0, error: str = ""
) -> Trace:
    stamps = tuple(int(a * MS) for a in arrivals_ms)
    texts = ("x",) * len(stamps)
    return Trace(int(sent_ms * MS), stamps, texts, int(end_ms * MS), 40, tokens, cached, "length", error or None)


def a_run(*traces: Trace) -> Run:
    return Run(traces, 2, 8, "short", {"engine": "none"}, 0.05)


# Sent at 0, first token after 100 ms, then gaps of 10, 20, 30; the second: after 200 ms, gaps of 20, 20.
FIRST = trace([100, 110, 130, 160], 4, sent_ms=0, end_ms=170)
SECOND = trace([210, 230, 250], 3, sent_ms=10, end_ms=260)
MULTI = trace([120, 180], 7, sent_ms=20, end_ms=200)  # seven tokens in two chunks
BROKEN = trace([21], None, sent_ms=20, end_ms=22, error="HTTP 500")  # after 1 ms: it must not look fast


def test_two_requests_by_hand() -> None:
    s = summarise(a_run(FIRST, SECOND))
    assert s.ttft_ms == Spread(150, 100, 200, 2)
    assert s.tpot_ms == Spread(20, 20, 20, 2)  # (160 - 100) / 3 and (250 - 210) / 2
    assert s.itl_ms == Spread(20, 10, 30, 5)  # pooled: 10 20 30 20 20
    assert s.e2e_ms == Spread(210, 170, 250, 2)
    assert s.wall_s == 0.26  # from the first send, 0, to the last end, 260
    assert s.output_tokens == 7
    assert s.output_tok_s == 26.92  # 7 / 0.26
    assert s.input_tokens == Spread(40, 40, 40, 2)
    assert (s.requests, s.failed, s.first_error, s.users, s.client_cpu_share) == (2, 0, None, 2, 0.05)


def test_tokens_of_a_chunk_with_several_count_and_make_no_gap() -> None:
    s = summarise(a_run(FIRST, MULTI))
    assert s.output_tokens == 11
    assert s.tpot_ms == Spread(15, 10, 20, 2)  # (180 - 120) / 6 = 10
    assert s.itl_ms == Spread(20, 10, 30, 3)  # of FIRST alone
    assert summarise(a_run(MULTI)).itl_ms is None


def test_a_failed_request_is_counted_and_is_never_fast() -> None:
    s = summarise(a_run(FIRST, BROKEN))
    assert (s.requests, s.failed, s.first_error, s.output_tokens) == (2, 1, "HTTP 500", 4)
    good = summarise(a_run(FIRST))
    assert (s.ttft_ms, s.tpot_ms, s.itl_ms, s.e2e_ms) == (good.ttft_ms, good.tpot_ms, good.itl_ms, good.e2e_ms)


def test_tokens_of_a_failed_request_count_for_nothing_and_its_time_does() -> None:
    half = trace([120, 130], 2, sent_ms=20, end_ms=400, error="reset")
    s = summarise(a_run(FIRST, half))
    assert (s.output_tokens, s.wall_s, s.output_tok_s) == (4, 0.4, 10)


@pytest.mark.parametrize("traces", [(), (BROKEN,), (BROKEN, BROKEN)])
def test_no_success_is_no_summary(traces: tuple[Trace, ...]) -> None:
    said = r"No request succeeded; the first failed with: HTTP 500\.\nFix: " if traces else "The run has no requests"
    with pytest.raises(LabError, match=said):
        summarise(a_run(*traces))


def test_missing_usage_is_an_error_and_not_a_count_of_chunks() -> None:
    with pytest.raises(LabError, match="no `usage`"):
        summarise(a_run(FIRST, dataclasses.replace(SECOND, output_tokens=None)))


def test_unknown_is_none_and_not_zero() -> None:
    one = trace([100], 1, sent_ms=0, end_ms=110, cached=None)
    s = summarise(a_run(one))
    assert (s.tpot_ms, s.itl_ms, s.cached_tokens) == (None, None, None)
    assert s.ttft_ms == Spread(100, 100, 100, 1)
    silent = trace([], 0, sent_ms=0, end_ms=50)  # a good answer without a token
    assert summarise(a_run(silent)).ttft_ms is None
    assert summarise(a_run(silent, one)).ttft_ms == Spread(100, 100, 100, 1)


def test_cached_tokens_are_known_only_if_each_answer_says() -> None:
    cached = [dataclasses.replace(FIRST, cached_tokens=n) for n in (16, 0, None)]
    assert summarise(a_run(*cached[:2])).cached_tokens == 16
    assert summarise(a_run(*cached)).cached_tokens is None
    assert summarise(a_run(cached[1])).cached_tokens == 0


def test_values_go_into_a_ledger_without_the_traces() -> None:
    values = summarise(a_run(FIRST, SECOND)).values()
    assert "run" not in values
    assert json.loads(json.dumps(values))["ttft_ms"] == {"median": 150, "low": 100, "high": 200, "n": 2}


def test_spread() -> None:
    assert Spread.of([3, 1, None, 8]) == Spread(3, 1, 8, 3)
    assert Spread.of(x for x in [1.0, 2.0]) == Spread(1.5, 1, 2, 2)
    assert Spread.of([0]) == Spread(0, 0, 0, 1)
    assert Spread.of([]) is None
    assert Spread.of([None, None]) is None
    assert str(Spread(8.312, 7.5, 1234.5, 3)) == "8.31 (7.5–1,234)"
    assert str(Spread(8.312, 8.31, 8.314, 3)) == "8.31"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (8.314, "8.31"),
        (104.4, "104"),
        (999.4, "999"),
        (999.7, "1,000"),
        (1234.0, "1,234"),
        (0.0, "0"),
        (-8.0, "-8"),
        (-999.7, "-1,000"),
        (1_234_567.0, "1,234,567"),
    ],
)
def test_numbers_as_a_reader_wants_them(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        ([20, 22, 21], [10, 11, 10.5], 2),
        ([10, 11, 10.5], [20, 22, 21], 0.5),
        ([20, 22, 21], [10, 20.5, 11], None),  # ranges overlap
        ([10, 30], [15, 20], None),  # one within the other
        ([15, 20], [10, 30], None),
        ([20, 21], [10, 20], None),  # they touch
        ([], [1], None),
        ([1], [], None),
        ([2], [1, 1.1], None),  # one value has no range
    ],
)
def test_there_is_no_winner_where_ranges_overlap_or_are_unknown(
    ours: list[float], theirs: list[float], ratio: float | None
) -> None:
    assert clear_ratio(ours, theirs) == ratio


@pytest.mark.parametrize(
    ("gaps", "fault"),
    [
        ([0.0] * 399 + [0.3], None),  # one near-tie, decided by rounding
        ([0.0] * 399 + [0.51], r"0\.51 nats below the reference's best"),
        ([0.0] * 370 + [0.1] * 30, r"0\.0075 nats below the reference's best on average"),
    ],
)
def test_gaps_of_rounding_are_told_from_gaps_of_another_model(gaps: list[float], fault: str | None) -> None:
    said = gap_fault(gaps)
    assert said is None if fault is None else said and re.search(fault, said)


# A role alone after 40 ms, text after 100 and 160 (two tokens each), the reason for the end after 200.
ROLE_FIRST = dataclasses.replace(
    trace([100, 160], 4, sent_ms=0, end_ms=210), first_choice_ns=40 * MS, last_choice_ns=200 * MS
)


def test_each_tools_convention_by_hand() -> None:
    told = {tool: {name: f(ROLE_FIRST) for name, f in its.items()} for tool, its in CONVENTIONS.items()}
    assert told == {
        "vLLM bench": {"TTFT": 40, "TPOT": pytest.approx(160 / 3)},  # (200 - 40) / 3
        "GuideLLM": {"TTFT": 100, "TPOT": 40, "ITL": 20},  # 160 / 4; (160 - 100) / 3
        "AIPerf": {"TTFT": 100, "ITL": 20},
        "these labs": {"TTFT": 100, "TPOT": 20},
    }
    assert gaps_ms(ROLE_FIRST) == (60,)
    one = trace([100], 1, sent_ms=0, end_ms=120)
    assert CONVENTIONS["GuideLLM"]["TPOT"](one) == 100
    assert [CONVENTIONS[tool]["TPOT"](one) for tool in ("vLLM bench", "these labs")] == [None, None]
    assert CONVENTIONS["GuideLLM"]["TPOT"](BROKEN) is None


def test_total_throughput_and_prefill_without_what_a_cache_supplied() -> None:
    half_cached = trace([100, 110], 2, sent_ms=0, end_ms=200, cached=20)
    s = summarise(a_run(FIRST, half_cached))
    assert s.total_tok_s == 430  # (4 + 2 + 40 + 40) / 0.2 s
    assert s.prefill_tok_s == Spread(300, 200, 400, 2)  # 40 tokens and 20 in 100 ms
    unknown = trace([100, 110], 2, sent_ms=0, end_ms=200, cached=None)
    assert summarise(a_run(unknown)).prefill_tok_s is None
    llamacpp = dataclasses.replace(FIRST, timings={"prompt_n": 40, "prompt_ms": 50.0})
    ollama = dataclasses.replace(FIRST, timings={"prompt_eval_count": 40, "prompt_eval_duration": 80 * MS})
    assert summarise(a_run(llamacpp)).engine_prefill_tok_s == Spread(800, 800, 800, 1)
    assert summarise(a_run(ollama)).engine_prefill_tok_s == Spread(500, 500, 500, 1)
    assert summarise(a_run(FIRST)).engine_prefill_tok_s is None


def test_queue_time_is_the_engines_own_word() -> None:
    told = dataclasses.replace(a_run(FIRST, SECOND), counted={"queue_s": 0.25, "queued_requests": 2})
    assert summarise(told).queue_ms == 125
    assert summarise(a_run(FIRST)).queue_ms is None


def test_latency_from_the_schedule_holds_the_wait_before_sending() -> None:
    late = dataclasses.replace(SECOND, scheduled_ns=-490 * MS)  # wanted 500 ms before it was sent
    s = summarise(a_run(late))
    assert s.e2e_ms == Spread(250, 250, 250, 1)
    assert s.scheduled_e2e_ms == Spread(750, 750, 750, 1)
    assert s.scheduled_ttft_ms == Spread(700, 700, 700, 1)
    assert s.wall_s == 0.75
    assert summarise(a_run(SECOND)).scheduled_e2e_ms is None
    assert Slo(e2e_ms=300).kept(SECOND)
    assert not Slo(e2e_ms=300).kept(late)
    assert not Slo(tpot_ms=100).kept(trace([10], 1, sent_ms=0, end_ms=20))  # unknown is not kept


@pytest.mark.parametrize(("share", "needed"), [(0.5, 20), (0.9, 100), (0.99, 1000)])
def test_a_percentile_that_the_sample_cannot_carry_is_refused(share: float, needed: int) -> None:
    values = list(range(1, needed + 1))
    assert percentile(values, share) == share * needed
    assert percentile(values[:-1], share) is None


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Twelve rounds of a speed of 100 with a standard deviation of 5, repeated four hundred times."""
    source = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        found = interval(list(source.normal(100, 5, 12)))
        assert found
        held += found.low <= 100 <= found.high
    assert 0.88 <= held / 400 <= 1


def test_few_rounds_have_a_range_and_no_confidence() -> None:
    assert interval([]) is None
    assert interval([3, 1, 2]) == Interval(2, 1, 3, 3, None)
    five = interval([10, 11, 12, 13, 14])
    assert five == interval([10, 11, 12, 13, 14])  # the same each time it is asked
    assert five
    assert (five.low, five.high, five.level) == (10, 14, 0.95)
    many = interval([*range(100)])
    assert many
    assert 30 < many.low < 49.5 < many.high < 70
    assert clear_ratio([10, 11, 12, 13, 14], [13.5, 15, 16, 17, 18]) is None
    assert clear_ratio([10, 11, 12, 13, 14], [15, 16, 17, 18, 19]) == 12 / 17


@pytest.mark.parametrize(
    ("curve", "at"),
    [
        ({1: 50, 2: 100, 4: 200, 8: 390, 16: 400, 32: 402, 64: 401}, 8),
        ({1: 20, 8: 160, 16: 320, 24: 480, 32: 500, 40: 505, 48: 507}, 24),
        ({1: 50, 2: 100, 4: 200, 8: 400}, None),  # still growing
        ({1: 100, 2: 100, 4: 100, 8: 100}, None),
        ({1: 10, 64: 400}, None),
        ({1: 27, 2: 28, 4: 30, 8: 84}, None),  # it bends upwards
        ({1: 40, 2: 39, 4: 38, 8: 36}, None),  # it never rises
        ({1: 23, 2: 47, 4: 49, 8: 72, 16: 97}, None),  # a dip on the way up
        ({1: 21, 2: 50, 4: 51, 8: 69, 16: 70}, 8),  # the dip is not the end
    ],
)
def test_the_knee_is_where_more_load_brings_no_more(curve: dict[float, float], at: float | None) -> None:
    assert knee(curve) == at
    noise = np.random.default_rng(2)
    noisy = {load: speed * noise.normal(1, 0.005) for load, speed in curve.items()}
    if at is not None:
        assert knee(noisy) == at


def test_a_cache_that_helps_unasked_is_a_fault() -> None:
    helped = trace([100, 110], 2, sent_ms=0, end_ms=200, cached=30)
    assert (summarise(a_run(helped)).cache_fault or "").startswith("a prefix cache supplied 30 of 40 prompt tokens")
    meant = dataclasses.replace(a_run(helped), load={"about_cache": True})
    assert summarise(meant).cache_fault is None
    opening = trace([100, 110], 2, sent_ms=0, end_ms=200, cached=5)  # of the template: an engine may keep it
    assert summarise(a_run(opening)).cache_fault is None
    unknown = trace([100, 110], 2, sent_ms=0, end_ms=200, cached=None)
    assert "did not report" in (summarise(a_run(unknown)).cache_fault or "")

"""The capacity calculator's arithmetic, against calculations by hand, and what must hold for every demand."""

import math
import random
from dataclasses import replace

import pytest

from shared import LabError
from shared.metrics import Slo
from shared.metrics.capacity import (
    CarryingEngine,
    Demand,
    PromptCost,
    burst,
    chances,
    fit_prompts,
    plan,
    under_way,
    users_carried,
)
from shared.metrics.roofline import Fit
from shared.models import ModelChoice, choice
from shared.models.catalogue import LLAMA_8B, entry

BIG = choice.from_catalogue_entry(entry(LLAMA_8B), "3.3.2", token=False)
DEMAND = Demand(users=200, prompt_tokens=500, output_tokens=201, think_s=30, slo=Slo(2000, 100), share=0.9)


def engine(overhead_ms: float = 10, model: ModelChoice = BIG, **changed: float) -> CarryingEngine:
    """An engine whose steps take 10 ms and 2 ms for each request; reading takes no time."""
    operations = 2.0 * (model.parameters - model.lookup)
    step = Fit(overhead_ms, None, operations / 2 / 1e9, 0.0)
    prompt = PromptCost(50, 0.4, 0.0)
    found = CarryingEngine(model, "BF16", 2, step, prompt, 1.0, 1.0, seats=32, kv_bytes=2**36)
    return replace(found, **changed)  # type: ignore[arg-type]


def test_one_request_alone_meets_no_other() -> None:
    alone = under_way(engine(), DEMAND, 1)
    assert alone.step_ms == pytest.approx(12)
    assert alone.prefill_ms == pytest.approx(200)  # 500 tokens of 0.4 ms
    assert alone.together == 0
    assert (alone.tpot_ms, alone.ttft_ms) == pytest.approx((12, 250))
    assert alone.answer_s == pytest.approx(0.25 + 200 * 0.012)
    assert alone.rate_per_s == pytest.approx(1 / (0.2 + 200 * 0.012))


def test_prompts_of_others_interrupt_an_answer() -> None:
    """By hand: ten requests; a step of 10 + 20 ms; nine prompts of 200 ms spread over 200 steps add 9 ms to each."""
    ten = under_way(engine(), DEMAND, 10)
    assert ten.step_ms == pytest.approx(30)
    assert ten.tpot_ms == pytest.approx(39)
    # A round is 200 × 39 + 200 = 8,000 ms. In two gaps of 39 ms come 9 × 78 / 8,000 = 0.088 prompts of others.
    # Poisson: e^-0.088 = 0.916 of the requests meet none.
    assert ten.together == 0
    assert ten.ttft_ms == pytest.approx(50 + 30 + 200)
    assert ten.rate_per_s == pytest.approx(10 / 8)
    assert ten.answer_s == pytest.approx(0.28 + 0.08775 * 0.2 + 200 * 0.039)  # the mean of 0.08775 prompts counts
    strict = under_way(engine(), replace(DEMAND, share=0.95), 10)
    assert strict.together == 1  # 0.916 × (1 + 0.088) = 0.996 meet at most one
    assert strict.ttft_ms == pytest.approx(50 + 30 + 400)


def test_the_measured_spread_multiplies_both_latencies() -> None:
    one, other = (under_way(engine(tpot_spread=a, ttft_spread=b), DEMAND, 10) for a, b in ((1, 1), (1.2, 1.5)))
    assert other.tpot_ms == pytest.approx(1.2 * one.tpot_ms)
    assert other.ttft_ms == pytest.approx(1.5 * one.ttft_ms)
    assert (other.rate_per_s, other.answer_s) == (one.rate_per_s, one.answer_s)  # these are means


def test_little_s_law_holds_without_spread() -> None:
    """Requests under way = rate × time, as long as nothing but the model's own terms counts."""
    found = under_way(replace(engine(), prompt=PromptCost(0, 0.0, 0.0)), DEMAND, 8)
    assert found.rate_per_s * 200 * found.tpot_ms / 1e3 == pytest.approx(8)


def test_no_request_meets_more_prompts_than_there_are_others() -> None:
    """Answers of two tokens: a round is 22 + 9 × 200 ms long and a step nearly as much, so all others are met."""
    short = under_way(engine(), replace(DEMAND, output_tokens=2), 10)
    assert short.together == 9
    assert short.answer_s == pytest.approx((50 + 30 + 10 * 200 + 30 + 9 * 200) / 1e3)


def test_users_who_ask_at_the_same_moment() -> None:
    """By hand: 4 prompts of 50 tokens in 50 + 80 ms, then 9 steps of 18 ms: 40 tokens in 292 ms."""
    found = burst(engine(), 4, 50, 10)
    assert (found.ttft_ms, found.tpot_ms) == pytest.approx((130, 18))
    assert found.output_tok_s == pytest.approx(40 / 0.292)


def test_time_limits_by_tpot() -> None:
    found = plan(engine(), DEMAND)
    # TPOT(n) = 10 + 2 n + (n − 1) × 200 / 200 = 9 + 3 n: 99 ms at n = 30.
    assert found.limits["TPOT"] == 30
    assert found.limit == "TPOT"
    assert found.at is not None
    assert found.at.tpot_ms == pytest.approx(99)
    assert found.engines == math.ceil(200 / found.users_per_engine)


def test_time_limits_by_ttft() -> None:
    found = plan(engine(), replace(DEMAND, slo=Slo(ttft_ms=251)))
    assert found.limits == {"seats": 32, "memory": pytest.approx(2**36 // (701 * 131_072)), "TTFT": 1}
    assert (found.limit, "TPOT" in found.limits) == ("TTFT", False)


def test_memory_limits() -> None:
    """131,072 bytes for each of 701 tokens are 91.9 MB a request: 5 of them fit into 500 MB."""
    found = plan(engine(kv_bytes=500_000_000), DEMAND)
    assert (found.limits["memory"], found.limit) == (5, "memory")
    assert found.at is not None
    assert found.at.requests == 5
    # A sixth request waits until one of five is over, however many seats there are.
    few_seats = plan(engine(kv_bytes=500_000_000, seats=5), DEMAND)
    assert (found.users_per_engine, found.mean) == (few_seats.users_per_engine, few_seats.mean)


def test_seats_limit_where_neither_time_nor_memory_does() -> None:
    found = plan(engine(seats=4), DEMAND)
    assert found.limits == {"seats": 4, "memory": found.limits["memory"]}
    assert found.limit == "seats"


def test_no_engine_is_enough_if_one_request_is_too_much() -> None:
    slow = plan(engine(), replace(DEMAND, slo=Slo(2000, 11.9)))
    assert (slow.limit, slow.at, slow.engines, slow.machines) == ("TPOT", None, None, None)
    small = plan(engine(kv_bytes=90_000_000), DEMAND)
    assert (small.limit, small.users_per_engine, small.engines) == ("memory", 0, None)


def test_users_without_pauses_are_all_under_way() -> None:
    found = plan(engine(), replace(DEMAND, think_s=0))
    assert (found.mean, found.users_per_engine) == (30, 30)
    assert found.engines == 7  # 200 / 30, rounded up
    assert plan(engine(), replace(DEMAND, think_s=0, users=210)).engines == 7
    assert plan(engine(), replace(DEMAND, think_s=0, users=211), 2).engines == 8
    assert plan(engine(), replace(DEMAND, think_s=0, users=211), 3).machines == 3


def test_answers_of_constant_length_make_the_binomial_distribution() -> None:
    """By hand: each user waits with the probability 1 / (1 + 9) = 0.1, independently of the others."""
    found = chances(3, [1.0] * 3, 9.0)
    assert list(found) == pytest.approx([0.729, 0.243, 0.027, 0.001])
    # One place. A request finds it free if none of the others waits: 0.9 ** (users − 1).
    assert users_carried(1, [1.0] * 9, 9.0, share=0.899) == 2  # 0.9 for two users, 0.81 for three
    assert users_carried(1, [1.0] * 9, 9.0, share=0.5) == 7  # 0.9 ** 6 = 0.531
    # Two places, three users who wait half of the time: at most one of two others waits in 0.75 of the cases.
    assert users_carried(2, [1.0] * 9, 1.0, share=0.749) == 3
    assert users_carried(2, [1.0] * 9, 1.0, share=0.499) == 4  # at most one of three others: 4 of 8 cases
    assert users_carried(7, [1.0] * 9, 0.0, share=0.99) == 7


def test_requests_beyond_the_seats_wait_for_one() -> None:
    """By hand: one seat, answers of 1 s, two users who think 1 s. Rates of asking 2 and 1, of ending always 1."""
    assert list(chances(2, [1.0], 1.0)) == pytest.approx([1 / 5, 2 / 5, 2 / 5])
    # With two seats, and answers that take 2 s as long as both are taken, answers end at the same rate.
    assert list(chances(2, [1.0, 2.0], 1.0)) == pytest.approx([1 / 5, 2 / 5, 2 / 5])


@pytest.mark.parametrize("think_s", [0.5, 3.0, 40.0])
def test_the_mean_under_way_keeps_little_s_law(think_s: float) -> None:
    """Users ask at the rate (users − mean) / think time, and requests end at the mean rate of all states."""
    answers_s = [1 + 0.3 * n for n in range(12)]
    found = chances(20, answers_s, think_s)
    mean = sum(n * chance for n, chance in enumerate(found))
    ends = sum(chance * min(n, 12) / answers_s[min(n, 12) - 1] for n, chance in enumerate(found) if n)
    assert (20 - mean) / think_s == pytest.approx(ends)


@pytest.mark.parametrize("seed", range(20))
def test_what_asks_more_never_needs_fewer_engines(seed: int) -> None:
    source = random.Random(seed)
    own = engine(
        overhead_ms=source.uniform(1, 30),
        tpot_spread=source.uniform(1, 1.5),
        ttft_spread=source.uniform(1, 2),
        seats=source.randint(1, 40),
        kv_bytes=source.randrange(2**28, 2**35),
    )
    demand = Demand(
        users=source.randint(1, 500),
        prompt_tokens=source.randint(10, 1000),
        output_tokens=source.randint(2, 300),
        think_s=source.choice((0, source.uniform(0, 100))),
        slo=Slo(source.uniform(100, 4000), source.uniform(20, 200)),
        share=source.uniform(0.5, 0.99),
    )

    def needed(**changed: object) -> float:
        found = plan(own, replace(demand, **changed))  # type: ignore[arg-type]
        return math.inf if found.engines is None else found.engines

    now = needed()
    assert needed(users=demand.users + 1) >= now
    assert needed(users=3 * demand.users) >= now
    assert needed(think_s=demand.think_s / 2) >= now
    assert needed(share=(1 + demand.share) / 2) >= now
    assert needed(prompt_tokens=2 * demand.prompt_tokens) >= now
    assert needed(slo=Slo((demand.slo.ttft_ms or 0) / 2, demand.slo.tpot_ms)) >= now
    assert needed(slo=Slo(demand.slo.ttft_ms, (demand.slo.tpot_ms or 0) / 2)) >= now


def test_both_times_grow_with_the_requests_under_way() -> None:
    states = [under_way(engine(), DEMAND, n) for n in range(1, 33)]
    for name in ("tpot_ms", "ttft_ms", "answer_s", "together"):
        values = [getattr(state, name) for state in states]
        assert values == sorted(values), name


def test_a_line_through_the_first_tokens() -> None:
    found = fit_prompts([(50, 40), (200, 100), (400, 180)])
    assert (found.fixed_ms, found.ms_per_token) == pytest.approx((20, 0.4))
    assert found.worst_residual == pytest.approx(0, abs=1e-9)
    assert found.ttft_ms(1000) == pytest.approx(420)
    assert fit_prompts([(50, 60), (100, 30)]).ms_per_token == 0  # a prompt never has a negative cost
    with pytest.raises(LabError, match="one number of prompt tokens only"):
        fit_prompts([(50, 40), (50, 41)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": 0}, "number of users is 0"),
        ({"prompt_tokens": -3}, "number of prompt tokens is -3"),
        ({"output_tokens": 1}, "number of output tokens is 1"),
        ({"think_s": -1}, "think time is -1 s"),
        ({"think_s": math.nan}, "think time is nan s"),
        ({"think_s": 3601}, "think time is 3601 s"),
        ({"share": 1.0}, "100 % of the requests"),
        ({"share": 0.1}, "10 % of the requests"),
        ({"slo": Slo(ttft_ms=0)}, "limit of TTFT is 0 ms"),
        ({"slo": Slo(tpot_ms=math.inf)}, "limit of TPOT is inf ms"),
    ],
)
def test_a_demand_that_makes_no_sense_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=rf"{message}.*\nFix: give"):
        replace(DEMAND, **changed)  # type: ignore[arg-type]


def test_what_the_model_or_a_machine_can_t_do_is_refused() -> None:
    with pytest.raises(LabError, match="longer than the context"):
        plan(engine(), replace(DEMAND, prompt_tokens=BIG.context))
    with pytest.raises(LabError, match="0 engines per machine"):
        plan(engine(), DEMAND, 0)

"""How many users one engine carries within an SLO, and how many engines a group of users needs.

The mental model: a user asks, waits for the answer, thinks, and asks again. So a user waits for an answer only a share
of the time: answer / (answer + think). This is Little's law, requests under way = rate × time (J. D. C. Little, 1961).
An engine with n requests under way works in rounds. In the time of one answer it computes output − 1 decode steps of n
tokens each, and the prompts of the n − 1 others, which interrupt these steps:

    TPOT = step(n) + (n − 1) × prefill / (output − 1)
    TTFT = fixed part + the step under way + the own prefill + the prefills of other prompts in the same steps

More requests under way make both longer. The largest n that keeps both limits, finds room in the KV cache and has a
seat is what the engine carries at once. But the number of requests under way changes from moment to moment. So an
engine may have only so many users that the SLO's share of the requests finds at most n under way.

    engine = recorded_engine.read("vllm", model).engine(share=0.9)       # shared.results
    found = plan(engine, Demand(users=200, prompt_tokens=500, output_tokens=200, think_s=30, slo=Slo(2000, 100)))
    found.engines, found.limit

All users are alike here, they ask independently of each other, and they are spread evenly over the engines. The SLO's
share is taken twice, for the measured spread of latencies and for the crowd. Fewer requests under way are answered
faster, so that more than this share should keep the SLO.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.errors import LabError
from shared.metrics.roofline import Fit, Prediction, decode_step
from shared.metrics.summary import Slo
from shared.models.choice import ModelChoice

TIME = ("TPOT", "TTFT")  # the limits that are a matter of time; the others are memory and seats
LONGEST_THINK_S = 3600  # a user who comes back later is no part of the same hour's load


@dataclass(frozen=True)
class Demand:
    """What a group of users asks for. Raises LabError for a demand that makes no sense."""

    users: int
    prompt_tokens: int
    output_tokens: int
    think_s: float  # from the end of an answer to the user's next request: reading, thinking, typing
    slo: Slo  # TTFT and TPOT; None: no limit
    share: float = 0.9  # of the requests must keep the SLO

    def __post_init__(self) -> None:
        for name, value, least in (
            ("users", self.users, 1),
            ("prompt tokens", self.prompt_tokens, 1),
            ("output tokens", self.output_tokens, 2),  # one token has no time per output token
        ):
            if value < least:
                raise LabError(f"The number of {name} is {value}.", f"give at least {least}")
        if not 0 <= self.think_s <= LONGEST_THINK_S:
            raise LabError(f"The think time is {self.think_s:g} s.", f"give 0 to {LONGEST_THINK_S} seconds")
        if not 0.5 <= self.share < 1:
            raise LabError(
                f"{100 * self.share:g} % of the requests must keep the limits.",
                "give a share from 50 % to less than 100 %: no engine promises all",
            )
        for name, limit in (("TTFT", self.slo.ttft_ms), ("TPOT", self.slo.tpot_ms)):
            if limit is not None and not 0 < limit < math.inf:
                raise LabError(f"The limit of {name} is {limit:g} ms.", "give more than 0 ms")

    @property
    def tokens(self) -> int:
        """Tokens of a request in the KV cache when its answer ends."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True)
class PromptCost:
    """The time to the first token of a prompt that is computed alone, in ms: fixed_ms + ms_per_token × tokens."""

    fixed_ms: float
    ms_per_token: float
    worst_residual: float  # the largest distance of a measured time from the line, as a share of that time

    def ttft_ms(self, tokens: float) -> float:
        """`tokens`: of all prompts that are computed together."""
        return self.fixed_ms + self.ms_per_token * tokens


def fit_prompts(points: Sequence[tuple[float, float]]) -> PromptCost:
    """The line through (prompt tokens computed together, their TTFT in ms), by non-negative least squares on relative
    errors. Attention's part, which grows with the square of a prompt's length, is left out.

    Raises LabError unless there are two different numbers of tokens.
    """
    from scipy.optimize import nnls  # takes most of a second to import

    if len({tokens for tokens, _ in points}) < 2:
        raise LabError(
            "The TTFT was measured for one number of prompt tokens only.", "measure several numbers of users"
        )
    times = np.array([ms for _, ms in points])
    columns = np.array([[1.0, tokens] for tokens, _ in points]) / times[:, None]
    lengths = np.linalg.norm(columns, axis=0)
    best = nnls(columns / lengths, np.ones(len(points)))[0] / lengths
    return PromptCost(float(best[0]), float(best[1]), float(np.abs(columns @ best - 1).max()))


@dataclass(frozen=True)
class CarryingEngine:
    """One engine on one machine, as its measured loads describe it."""

    model: ModelChoice
    precision: str
    bytes_per_value: int  # of weights, keys and values as the engine computes
    step: Fit
    prompt: PromptCost
    tpot_spread: float  # the TPOT that the SLO's share of the requests kept, divided by the median
    ttft_spread: float
    seats: int  # requests that it runs at once
    kv_bytes: int  # the size of its KV cache

    def step_parts(self, requests: int, prompt_tokens: float, output_tokens: float) -> Prediction:
        """A decode step, in the middle of the answers."""
        context = round(prompt_tokens + output_tokens / 2)
        work = decode_step(self.model, self.precision, requests, context, self.bytes_per_value)
        return self.step.predict(work)

    def kv_bytes_per_request(self, tokens: int) -> int:
        return self.model.kv_bytes_per_token(self.bytes_per_value) * tokens


@dataclass(frozen=True)
class UnderWay:
    """An engine that always has `requests` requests under way, which came at random moments."""

    requests: int
    step_ms: float  # of decode alone
    prefill_ms: float  # of one prompt
    together: int  # other prompts in the step under way or in the own one, of the request at the SLO's share
    tpot_ms: float  # that the SLO's share of the requests keeps
    ttft_ms: float
    answer_s: float  # from the question to the end of the answer, on average
    rate_per_s: float  # answers


def under_way(engine: CarryingEngine, demand: Demand, requests: int) -> UnderWay:
    """What `requests` requests at once mean for each of them."""
    from scipy.stats import poisson  # takes more than a second to import

    step_ms = engine.step_parts(requests, demand.prompt_tokens, demand.output_tokens).step_ms
    prefill_ms = engine.prompt.ms_per_token * demand.prompt_tokens
    steps, others = demand.output_tokens - 1, requests - 1
    gap_ms = step_ms + others * prefill_ms / steps
    round_ms = steps * gap_ms + prefill_ms  # in which each request under way is answered once
    # Prompts in the step under way came during the step before it, and those in the own step during the one under way.
    met = min(2 * gap_ms / round_ms, 1) * others  # prompts of others, on average
    together = min(others, int(poisson.ppf(demand.share, met)))
    first_ms = engine.prompt.fixed_ms + (step_ms if others else 0.0) + prefill_ms
    return UnderWay(
        requests=requests,
        step_ms=step_ms,
        prefill_ms=prefill_ms,
        together=together,
        tpot_ms=engine.tpot_spread * gap_ms,
        ttft_ms=engine.ttft_spread * (first_ms + together * prefill_ms),
        answer_s=(first_ms + met * prefill_ms + steps * gap_ms) / 1e3,
        rate_per_s=1e3 * requests / round_ms,
    )


@dataclass(frozen=True)
class Burst:
    """`requests` users who ask at the same moment, as in the labs' closed loop: the medians."""

    ttft_ms: float
    tpot_ms: float
    output_tok_s: float


def burst(engine: CarryingEngine, requests: int, prompt_tokens: float, output_tokens: int) -> Burst:
    """The prompts are computed together, then all answers flow at once. No later prompt interrupts them."""
    ttft_ms = engine.prompt.ttft_ms(requests * prompt_tokens)
    tpot_ms = engine.step_parts(requests, prompt_tokens, output_tokens).step_ms
    whole_ms = ttft_ms + (output_tokens - 1) * tpot_ms
    return Burst(ttft_ms, tpot_ms, 1e3 * requests * output_tokens / whole_ms)


@dataclass(frozen=True)
class Plan:
    """The answer for one demand: how much an engine carries, what limits it, and how many are needed."""

    demand: Demand
    limits: dict[str, int]  # the most requests at once by seats, memory, TPOT and TTFT; the last two where they bind
    at: UnderWay | None  # with as many requests at once as all limits allow; None if that is none
    users_per_engine: int
    mean: float  # requests under way of so many users, on average
    engines: int | None  # None if no number of such engines is enough
    machines: int | None

    @property
    def limit(self) -> str:
        """What allows the fewest requests at once: seats, memory, TPOT or TTFT."""
        return min(self.limits, key=lambda name: self.limits[name])


def plan(engine: CarryingEngine, demand: Demand, engines_per_machine: int = 1) -> Plan:
    """How many engines and machines the demand needs. Raises LabError if a request is longer than the model's context,
    or for less than one engine per machine."""
    if engines_per_machine < 1:
        raise LabError(f"{engines_per_machine} engines per machine can't carry users.", "give at least 1")
    if demand.tokens > engine.model.context:
        raise LabError(
            f"A request of {demand.tokens} tokens is longer than the context of {engine.model.name}, "
            f"{engine.model.context} tokens.",
            "give fewer prompt or output tokens",
        )
    limits = {"seats": engine.seats, "memory": engine.kv_bytes // engine.kv_bytes_per_request(demand.tokens)}
    states = [under_way(engine, demand, n) for n in range(1, engine.seats + 1)]
    for name, limit, times in (
        ("TPOT", demand.slo.tpot_ms, [state.tpot_ms for state in states]),
        ("TTFT", demand.slo.ttft_ms, [state.ttft_ms for state in states]),
    ):
        # Both times grow with the requests under way, so the requests that keep the limit are the first ones.
        if limit is not None and times[-1] > limit:
            limits[name] = bisect.bisect_right(times, limit)
    most = min(limits.values())
    if most == 0:
        return Plan(demand, limits, None, 0, 0.0, None, None)
    answers_s = [state.answer_s for state in states[: limits["memory"]]]  # more requests than these wait outside
    carried = users_carried(most, answers_s, demand.think_s, demand.share)
    mean = float(chances(carried, answers_s, demand.think_s) @ np.arange(carried + 1))
    engines = math.ceil(demand.users / carried)
    return Plan(demand, limits, states[most - 1], carried, mean, engines, math.ceil(engines / engines_per_machine))


def users_carried(at_once: int, answers_s: Sequence[float], think_s: float, share: float) -> int:
    """The most users of one engine, so that at least this share of the requests finds at most `at_once` under way,
    itself included.

    A request finds what a group with one user fewer would have under way on average (the arrival theorem: Sevcik and
    Mitrani, "The Distribution of Queuing Network States at Input and Output Instants", JACM 28, 1981).
    """

    def crowded(users: int) -> bool:
        return bool(chances(users - 1, answers_s, think_s)[:at_once].sum() < share)

    too_many = 2 * at_once
    while not crowded(too_many):
        too_many *= 2
    return at_once - 1 + bisect.bisect_left(range(at_once, too_many + 1), True, key=crowded)


def chances(users: int, answers_s: Sequence[float], think_s: float) -> npt.NDArray[np.float64]:
    """The probability that 0, 1, …, `users` requests are under way, for users who each have at most one.

    answers_s: the mean seconds of an answer with 1, 2, … requests under way. Beyond the last entry, the seats, a
    request also waits for a seat, so that answers end at the same rate. This is the closed network of a station at
    which all think and one that works on all requests in equal shares. Its distribution depends on the mean times
    alone (Baskett, Chandy, Muntz, Palacios, "Open, Closed, and Mixed Networks of Queues", JACM 22, 1975).
    """
    if think_s == 0:
        return np.append(np.zeros(users), 1.0)  # all wait
    under_way = np.arange(1, users + 1)
    seats = len(answers_s)
    rate = np.minimum(under_way, seats) / np.array(answers_s)[np.minimum(under_way, seats) - 1]  # of ends, per second
    logs = np.concatenate([[0.0], np.cumsum(np.log((users - under_way + 1) / think_s / rate))])
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())

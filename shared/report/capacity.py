"""The capacity calculator's tables: every term with its source, and how far the model is off on this machine.

    recorded = recorded_engine.read("vllm", model)
    show(left_out(recorded))                        # bursts: predicted and measured, with the error
    show(by_rate(recorded, slo))                    # requests at random moments: the same
    found, engine = planned(recorded, demand)
    show(terms(recorded, engine, found))
    print(answer(recorded, found))

`make capacity` prints all of them (environment/capacity.py). The arithmetic is in metrics/capacity.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from shared.engines import ENGINES
from shared.errors import LabError
from shared.metrics.capacity import (
    LONGEST_THINK_S,
    TIME,
    CarryingEngine,
    Demand,
    Plan,
    UnderWay,
    burst,
    plan,
    under_way,
)
from shared.metrics.spread import number
from shared.metrics.summary import Slo
from shared.report.table import Table
from shared.results.query import figure_value
from shared.results.recorded_engine import LOADS_IN, Recorded, by_users

EXPLAINED = 0.2  # a fit with a larger error doesn't explain the engine, as in lab 3.3.1
HEADROOM = 0.2  # of the exercise's fixed rule, beside which the calculator's answer is shown


def planned(recorded: Recorded, demand: Demand, per_machine: int = 1) -> tuple[Plan, CarryingEngine]:
    """The plan for this demand, and the engine that it was computed with."""
    engine = recorded.engine(demand.share)
    return plan(engine, demand, per_machine), engine


def answer(recorded: Recorded, found: Plan) -> str:
    """The answer in two sentences: how many engines and machines, and what limits them."""
    demand, name = found.demand, ENGINES[recorded.name].title
    if found.engines is None:
        why = "memory" if found.limit == "memory" else f"time ({found.limit})"
        return (
            f"No number of these engines is enough: one request alone is too much for {name} here. The limit is {why}."
        )
    engines, machines = counted(found.engines, "engine"), counted(found.machines or 0, "machine")
    kind = f"time ({found.limit})" if found.limit in TIME else found.limit
    return (
        f"{counted(demand.users, 'user')}: {engines} on {machines}. One engine carries "
        f"{counted(found.users_per_engine, 'user')}, of whom at most {found.limits[found.limit]} may wait for an "
        f"answer at once. The limit is {kind}."
    )


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def terms(recorded: Recorded, engine: CarryingEngine, found: Plan) -> Table:
    """Every term of the arithmetic, with its source: asked, measured, fitted, recorded or assumed."""
    rows = [
        *asked_rows(found.demand),
        *engine_rows(recorded, engine, found.demand),
        *limit_rows(recorded, engine, found),
    ]
    if found.at is not None:
        rows += carrying_rows(found)
    title = f"{ENGINES[recorded.name].title} with {recorded.model.name} on {recorded.source['processor']}"
    return Table(title, ("term", "value", "source"), rows)


def asked_rows(demand: Demand) -> list[tuple[str, str, str]]:
    slo = demand.slo
    return [
        ("users", f"{demand.users:,}", "asked"),
        ("tokens of a prompt, of an answer", f"{demand.prompt_tokens:,}, {demand.output_tokens:,}", "asked"),
        ("limits of TTFT, of TPOT", f"{limit(slo.ttft_ms)}, {limit(slo.tpot_ms)}", "asked"),
        ("requests that must keep them", f"{100 * demand.share:g} %", "asked"),
        ("think time", f"{demand.think_s:g} s", "asked"),
    ]


def limit(ms: float | None) -> str:
    return "none" if ms is None else f"{ms:g} ms"


def engine_rows(recorded: Recorded, engine: CarryingEngine, demand: Demand) -> list[tuple[str, str, str]]:
    one, two = (engine.step_parts(n, demand.prompt_tokens, demand.output_tokens) for n in (1, 2))
    tpot, ttft = (f"fitted: {what}, {recorded.keys}" for what in ("TPOT", "TTFT"))
    prompts = " and 3.3.1: prompt/" if recorded.prompts else ""
    share = f"measured: traces of {recorded.keys}"
    return [
        ("a step: overhead", f"{number(one.overhead_ms)} ms", tpot),
        ("a step: reading, for 1 request", f"{number(one.bytes_ms)} ms", f"bytes / {recorded.bandwidth_gb_s:.1f} GB/s"),
        ("memory bandwidth", f"{recorded.bandwidth_gb_s:.1f} GB/s", recorded.bandwidth_source),
        (
            "a step: each further request",
            f"{number(two.step_ms - one.step_ms)} ms",
            f"{tpot}; its KV cache by arithmetic",
        ),
        ("largest error of that fit", percent(engine.step.worst_residual), "fitted against measured"),
        ("first token: fixed part", f"{number(engine.prompt.fixed_ms)} ms", ttft + prompts),
        ("first token: each prompt token", f"{number(engine.prompt.ms_per_token)} ms", ttft + prompts),
        ("largest error of that fit", percent(engine.prompt.worst_residual), "fitted against measured"),
        (f"TPOT of {100 * demand.share:g} % / median", f"{engine.tpot_spread:.2f}", share),
        (f"TTFT of {100 * demand.share:g} % / median", f"{engine.ttft_spread:.2f}", share),
    ]


def limit_rows(recorded: Recorded, engine: CarryingEngine, found: Plan) -> list[tuple[str, str, str]]:
    demand, each = found.demand, engine.kv_bytes_per_request(found.demand.tokens)
    cache = f"{engine.kv_bytes / 2**30:.2f} GiB by the recorded flags / {each / 2**20:.1f} MiB a request"
    rows = [
        ("most at once, by seats", str(found.limits["seats"]), recorded.seats_source),
        ("most at once, by memory", str(found.limits["memory"]), cache),
    ]
    for name in TIME:
        if name in found.limits:
            rows.append(
                (f"most at once, by {name}", str(found.limits[name]), "the largest number that keeps the limit")
            )
        else:
            none = demand.slo.tpot_ms if name == "TPOT" else demand.slo.ttft_ms
            why = "no limit was asked for" if none is None else "kept with every seat taken"
            rows.append((f"most at once, by {name}", "not a limit", why))
    return rows


def carrying_rows(found: Plan) -> list[tuple[str, str, str]]:
    at, demand = found.at, found.demand
    assert at is not None
    alone = f"{100 * demand.share:g} % of the requests find at most {at.requests} under way, themselves included"
    together = f"assumed: prompts come at random moments; {100 * demand.share:g} % of them meet no more"
    return [
        (f"with {at.requests} at once: a step", f"{number(at.step_ms)} ms", "overhead + reading + requests"),
        ("a prompt's own time (prefill)", f"{number(at.prefill_ms)} ms", "tokens × time of each"),
        ("other prompts in the same steps", str(at.together), together),
        ("TPOT", f"{number(at.tpot_ms)} ms", "(a step + the prompts of the others, spread over an answer) × spread"),
        ("TTFT", f"{number(at.ttft_ms)} ms", "(fixed part + a step + own and other prompts) × spread"),
        ("an answer takes, on average", f"{number(at.answer_s)} s", "TTFT + TPOT × (tokens − 1), without the spreads"),
        ("users of one engine", f"{found.users_per_engine:,}", f"{alone}; assumed: users ask independently"),
        ("requests under way, mean", number(found.mean), "Little's law: their rate × the time of an answer"),
        ("a user waits for an answer", percent(found.mean / found.users_per_engine), "requests under way / users"),
        ("engines", f"{found.engines:,}", "users / users of one engine, rounded up"),
        ("machines", f"{found.machines:,}", "engines / engines on one machine, rounded up"),
    ]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def doubts(recorded: Recorded, engine: CarryingEngine, demand: Demand) -> list[str]:
    """Sentences on why this answer may be wrong: a fit that misses its own loads, a demand beyond what was measured."""
    found = []
    for name, residual in (("TPOT", engine.step.worst_residual), ("TTFT", engine.prompt.worst_residual)):
        if residual > EXPLAINED:
            found.append(
                f"The model misses the measured {name} of a load by {percent(residual)}, so it does not explain this "
                f"engine here. Was the machine busy with something else? Then run the cell `{LOADS_IN[recorded.lab]}` "
                f"of lab {recorded.lab} again."
            )
    was, output = round(recorded.prompt_tokens), recorded.output_tokens
    if demand.prompt_tokens > 2 * was or demand.output_tokens > 2 * output:
        found.append(
            f"The loads had prompts of {was} tokens and answers of {output}. Longer ones are computed by the model and "
            "were not measured."
        )
    return found


def left_out(recorded: Recorded) -> Table:
    """The model against measured loads: each number of users is predicted from the others alone.

    Raises LabError if fewer than five numbers of users were measured, because a fit needs four.
    """
    if len(recorded.users) < 5:
        raise LabError(
            f"To leave one number of users out, five must be measured; lab {recorded.lab} has {len(recorded.users)}.",
            f"run the cell `{LOADS_IN['3.3.2']}` of lab 3.3.2",
        )
    measured = [by_users(recorded.loads, value) for value in ("ttft_ms", "tpot_ms", "output_tok_s")]
    rows, errors = [], {}
    for users in recorded.users:
        engine = recorded.engine(0.5, without=users)
        found = burst(engine, users, recorded.prompt_tokens, recorded.output_tokens)
        cells = []
        for predicted, by in zip((found.ttft_ms, found.tpot_ms, found.output_tok_s), measured, strict=True):
            cells += compared(predicted, by[users])
        rows.append((str(users), *cells))
        errors[users] = abs(found.output_tok_s / measured[-1][users] - 1)
    where = max(errors, key=lambda users: errors[users])
    header = ("users", *columns("TTFT, ms"), *columns("TPOT, ms"), *columns("output tok/s"))
    worst = f"{percent(errors[where])} (at {counted(where, 'user')})"
    title = f"Users who ask at once, each row predicted from the others: throughput off by at most {worst}"
    return Table(title, header, rows)


def by_rate(recorded: Recorded, slo: Slo, share: float = 0.9) -> Table:
    """The model against lab 3.3.2's open loops, whose requests come at random moments: the medians at each rate, and
    the share of the requests that kept the SLO. The title has the rate up to which the calculator would fill an engine.

    The fit has not seen these loads. At a rate that the seats can't carry no steady state exists, so nothing is
    predicted there. Raises LabError if no open loop was measured.
    """
    if not recorded.open_loops:
        raise LabError("The ledger has no open loop of this engine.", "run the cell `run-open-loop` of lab 3.3.2")
    engine, rows = recorded.engine(0.5), []
    demand = open_demand(recorded, slo, 0.5)
    states = [under_way(engine, demand, n) for n in range(1, engine.seats + 1)]
    for key, entry in recorded.open_loops.items():
        values = entry["values"]
        rate = values["requests"] / entry["provenance"]["load"]["seconds"]
        found = at_rate(states, rate)
        cells = []
        for name, figure in (("ttft_ms", "scheduled_ttft_ms"), ("tpot_ms", "tpot_ms")):
            measured = figure_value(values[figure])
            cells += ["–", number(measured), "–"] if found is None else compared(getattr(found, name), measured)
        rows.append((key, f"{rate:.1f}", *cells, percent(recorded.kept(key, slo))))
    header = ("load", "requests/s", *columns("TTFT, ms"), *columns("TPOT, ms"), "kept the SLO, measured")
    title = (
        "Requests at random moments, predicted from their rate (medians). "
        f"For {100 * share:g} % within the SLO the calculator sends an engine "
        f"{number(rate_within(recorded, slo, share))} requests/s"
    )
    return Table(title, header, rows)


def rate_within(recorded: Recorded, slo: Slo, share: float = 0.9) -> float:
    """The requests per second of an open loop up to which the calculator fills an engine, for loads like the recorded
    ones; 0 if one request alone misses the SLO."""
    demand = open_demand(recorded, slo, share)
    found = planned(recorded, demand)[0]
    return (found.users_per_engine - found.mean) / demand.think_s  # of those who think


def open_demand(recorded: Recorded, slo: Slo, share: float) -> Demand:
    """Requests at random moments: users who think for so long that nearly each request comes from another one."""
    return Demand(1, round(recorded.prompt_tokens), recorded.output_tokens, LONGEST_THINK_S, slo, share)


def at_rate(states: Sequence[UnderWay], rate_per_s: float) -> UnderWay | None:
    """The state whose rate of answers comes nearest; None if even the last one answers more slowly."""
    if rate_per_s > states[-1].rate_per_s:
        return None
    return min(states, key=lambda state: abs(state.rate_per_s - rate_per_s))


def columns(name: str) -> tuple[str, str, str]:
    return f"{name}: predicted", "measured", "error"


def compared(predicted: float, measured: float) -> list[str]:
    return [number(predicted), number(measured), f"{100 * (predicted / measured - 1):+.0f} %"]


def by_think_time(
    engine: CarryingEngine, demand: Demand, think_s: Sequence[float], engines_needed: Callable[..., float]
) -> Table:
    """The exercise's fixed head-room beside the calculator's, at several think times.

    `engines_needed` (an exercise) takes users, think_s, answer_s, at_once and headroom.
    """
    rows = []
    for seconds in think_s:
        found = plan(engine, replace(demand, think_s=seconds))
        if found.at is None:
            rows.append((f"{seconds:g} s", "–", "–", "–", "–"))
            continue
        own = engines_needed(demand.users, seconds, found.at.answer_s, found.at.requests, HEADROOM)
        waits, free = found.mean / found.users_per_engine, 1 - found.mean / found.at.requests
        rows.append((f"{seconds:g} s", percent(waits), f"{own:.0f}", f"{found.engines}", percent(free)))
    rule = f"engines, {100 * HEADROOM:.0f} % of the places free (your function)"
    header = ("think time", "a user waits", rule, "engines, calculator", "places free, calculator")
    return Table(f"{counted(demand.users, 'user')}: engines by think time", header, rows)

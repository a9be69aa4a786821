"""The figures in which a fault shows, when a difference counts, and the hint for each wrong diagnosis.

    moved("hit_share", healthy, faulty, -1)     # whether it is smaller by as much as counts
    hint("llamacpp", ONE, OVERLOAD, healthy, faulty)

Every figure is a count, a share, or a ratio with a wide margin, so that a busy machine doesn't decide the diagnosis.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.course.gateway.seven_faults.stack import (
    CACHE,
    CLIENT,
    CORES,
    FAULTS,
    KV,
    ONE,
    OVERLOAD,
    READER,
    Figures,
)
from shared.engines import ENGINES


@dataclass(frozen=True)
class Figure:
    """One line of the evidence. A difference counts from `least` on, and from `factor` times the smaller value on."""

    name: str  # in an answer; "*" and one of our names for a counter: the engine's own name for it
    about: str
    form: str = "{:.0f}"
    least: float = 0
    factor: float = 1


FIGURES: Mapping[str, Figure] = {
    "sent_per_s": Figure("requests_sent_per_s", "by the clients", "{:.1f}", 0, 2),
    "gateway_running": Figure("gateway:num_requests_running", "requests that hold a seat, mean", "{:.1f}", 1),
    "gateway_waiting": Figure("gateway:num_requests_waiting", "requests that wait for a seat, mean", "{:.1f}", 1, 2),
    "refused": Figure("gateway:requests_refused_total", "growth", "{:.0f}", 1),
    "send_wait_s": Figure("gateway:send_wait_seconds_total", "growth, s: waits for slow readers", "{:.1f}", 1, 2),
    "hit_share": Figure("gateway:prefix_cache_hits_total", "growth, as a share of all prompt tokens", "{:.0%}", 0.4),
    "engine_running": Figure("*running", "requests that are computed, at most", "{:.0f}", 1),
    "engine_waiting": Figure("*waiting", "requests that wait in the engine, mean", "{:.1f}", 0.5, 2),
    "idle_seats": Figure("idle_seats", "seats whose request is not in the engine, mean", "{:.1f}", 1, 2),
    "preemptions": Figure("*preemptions", "growth", "{:.0f}", 1, 2),
    "kv_use": Figure("*kv_use", "share of the KV cache in use, at most", "{:.0%}", 0.3),
    "engine_cpu": Figure("engine_cores_used", "CPU seconds per second", "{:.1f}", 0, 1.25),
    "busy_threads": Figure("engine_busy_threads", "threads of the engine that compute", "{:.0f}", 1),
    "others_cpu": Figure("other_programs_cores_used", "CPU seconds per second", "{:.1f}", 0.5, 2),
    "client_lag_ms": Figure("client_loop_lag_ms", "how late the client's loop woke up, at most", "{:,.0f}", 150, 3),
    "client_cpu": Figure("client_cores_used", "CPU seconds per second", "{:.2f}", 0.3, 2),
    "gateway_ttft_ms": Figure("gateway:time_to_first_token_seconds", "mean, ms", "{:,.0f}", 0, 1.5),
    "ttft_ms": Figure("client_ttft_ms", "time to first token, median", "{:,.0f}", 0, 1.5),
    "itl_ms": Figure("client_itl_ms", "gap between two tokens, median", "{:,.0f}", 0, 1.5),
    "tok_s": Figure("client_output_tok_s", "of all users together", "{:,.0f}", 0, 1.5),
    "failed": Figure("client_failed_requests", "refusals included", "{:.0f}", 1),
}  # fmt: skip
FELT = ("gateway_ttft_ms", "ttft_ms", "itl_ms", "tok_s", "failed")  # what users feel: most faults change it

# Two faults that change the same figure, or nearly: (what was injected, what was answered).
CONFUSED: Mapping[tuple[str, str], str] = {
    (OVERLOAD, ONE): "With one sequence at a time requests wait, too, but the engine never runs more than 1. "
    "Look at how many run in the engine here, at most.",
    (OVERLOAD, READER): "The seats are all taken in both cases. Slow readers hold seats whose request the engine has "
    "finished: compare what runs at the gateway with what runs in the engine.",
    (ONE, OVERLOAD): "Under overload requests wait, too, but then the engine runs as many as it has seats, and the "
    "clients send more than in the healthy run. Look at how many run in the engine here, and where the others wait.",
    (ONE, READER): "The gateway counts more running requests than the engine in both cases. With slow readers the "
    "rest neither runs nor waits in the engine. Here it waits in the engine.",
    (KV, ONE): "Preempted requests wait in the engine, too. But more than one ran at a time here, until something sent "
    "them back: which counter counts that?",
    (KV, CACHE): "A cache that is too full also loses blocks that others could have used. Look at how full it is, and "
    "at what happens to running requests.",
    (CLIENT, ONE): "With one sequence at a time the other requests wait in the engine, and nothing waits there here. "
    "If few run at once, why does the engine get so few?",
    (CLIENT, CORES): "The engine may use less of the processor because it gets its requests late. Look at how many of "
    "its threads compute, and at who sends the requests.",
    (READER, OVERLOAD): "Requests wait at the gateway under overload, too, but then the clients send more than in the "
    "healthy run, and the engine runs as many requests as the gateway. Compare the two.",
    (READER, ONE): "The engine runs few requests here, but none waits there. With one sequence at a time they would. "
    "What takes the gateway's seats?",
    (READER, CORES): "The engine may use less of the processor because it has less to do. Look at how many of its "
    "threads compute, and at what takes the gateway's seats.",
}  # fmt: skip


def name_of(figure: str, engine: str) -> str:
    """The name of a figure in an answer: where an engine reports it, the engine's own."""
    name = FIGURES[figure].name
    return ENGINES[engine].counters[name[1:]] if name.startswith("*") else name


def moved(figure: str, before: Figures, now: Figures, direction: int) -> bool:
    """Whether a figure differs between two runs in this direction (+1 larger, -1 smaller) by as much as counts."""
    if figure not in before or figure not in now:
        return False
    rule, small, large = FIGURES[figure], *(before[figure], now[figure])[::direction]
    return large - small >= rule.least and large >= rule.factor * small and large > small


def hint(engine: str, injected: str, answered: str, before: Figures, now: Figures) -> str:
    """Why the evidence doesn't fit an answer that names the wrong fault, without naming the right one."""
    if answered == KV and engine == "llamacpp":
        return "llama.cpp gives each slot a fixed share of the cache, so it never preempts: look for another."
    if text := CONFUSED.get((injected, answered)):
        return text
    shows = FAULTS[answered].shows
    still = [figure for figure, way in shows.items() if not moved(figure, before, now, way)]
    if not still:
        return f"The figures of “{answered}” have changed, too. Look for one that has changed more."
    figure = FIGURES[still[0]]
    values = [figure.form.format(one[still[0]]) for one in (before, now) if still[0] in one]
    found = (
        f"it was {values[0]} in the healthy run and is {values[1]} here" if len(values) == 2 else "it isn't reported"
    )
    way = "rise" if shows[still[0]] > 0 else "fall"
    return f"“{answered}” would make {name_of(still[0], engine)} {way} ({figure.about}), but {found}."

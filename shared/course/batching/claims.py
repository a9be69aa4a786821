"""Lab 3.3.2: the claims of its milestone, and the test of each claim on the results."""

from typing import Any

from shared.course.batching import open_loop, open_task
from shared.course.evidence import Claim, Evidence, measure_again
from shared.load.client import Trace
from shared.metrics.correctness import gap_fault
from shared.metrics.spread import Spread
from shared.metrics.summary import Slo
from shared.results.reading import Entry

SCHEDULER = ("blocks_needed", "give_back", "admit", "plan_step", "choose_victims", "step")
BATCHES = ("alone", "together", "squeezed")
PARITY = 0.7  # of vLLM's throughput
BATCHING_AT_LEAST = 2.0  # times the throughput of one seat; with less there is no batching


def medians(entries: dict[str, Entry], value: str) -> list[float]:
    """One figure of each entry; of a spread its median."""
    found = [entry["values"][value] for entry in entries.values()]
    return [one["median"] if isinstance(one, dict) else one for one in found]


def same_text(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("own/greedy").get("own/greedy")
    if entry is None:
        return False, ""
    raw = evidence.raw("own/greedy")
    seen = []
    for batch in BATCHES:
        gaps = [gap for answer in raw[batch] for gap in answer]
        if fault := gap_fault(gaps):
            return False, f"{batch}: {fault}"
        seen.append(f"{batch} {max(gaps):.3f}")
    if not entry["values"]["preemptions"]:
        return False, "nothing was preempted in the squeezed batch: use fewer blocks in the cell `own-text`"
    text = f"worst gap in nats over {len(gaps)} tokens each: {', '.join(seen)}"
    return True, f"{text}; {entry['values']['preemptions']} preemptions in the squeezed batch"


def three_ways(evidence: Evidence) -> tuple[bool, str]:
    ways = evidence.of("own/schedule/")
    if missing := [w for w in ("static", "continuous", "chunked") if f"own/schedule/{w}" not in ways]:
        return False, f"missing: {', '.join(missing)}: run the cell `three-ways`"
    ttft = {way: ways[f"own/schedule/{way}"]["values"]["ttft_ms"]["median"] for way in ("static", "continuous")}
    pause = {way: ways[f"own/schedule/{way}"]["values"]["itl_ms"]["high"] for way in ("continuous", "chunked")}
    text = (
        f"median TTFT: {ttft['static']:,.0f} ms static, {ttft['continuous']:,.0f} ms continuous; longest pause: "
        f"{pause['continuous']:,.0f} ms with whole prompts, {pause['chunked']:,.0f} ms in chunks"
    )
    return evidence.judged(ttft["continuous"] < ttft["static"] and pause["chunked"] < pause["continuous"], text)


def lost(entries: dict[str, Entry], cell: str) -> str:
    """Why these loads give no throughput to compare, or "": with failed requests an engine only looks slower."""
    for key, entry in entries.items():
        if failed := entry["values"]["failed"]:
            return f"{failed} of {entry['values']['requests']} requests failed in {key}: {measure_again(key, cell)}"
    return ""


def parity(evidence: Evidence) -> tuple[bool, str]:
    own, theirs = (evidence.of(f"load/users-16/{who}/") for who in ("yours", "vllm"))
    if not own or not theirs:
        return False, ""
    if fault := lost(own | theirs, "run-load"):
        return False, fault
    ratios = [Spread.of(medians(entries, "output_tok_s")) for entries in (own, theirs)]
    if ratios[0] is None or ratios[1] is None:
        return False, "no throughput is recorded: run the cell `run-load`"
    ratio = ratios[0].median / ratios[1].median
    text = f"{ratio:.2f} of vLLM's throughput at 16 users: {ratios[0]} tok/s against {ratios[1]}"
    models = {entry["provenance"]["model"] for entry in (*own.values(), *theirs.values())}
    if len(models) > 1:
        return True, f"{text}; not a comparison of engines, because the models differ: {', '.join(sorted(models))}"
    return evidence.judged(ratio >= PARITY, text)


def seats(evidence: Evidence) -> tuple[bool, str]:
    one, many = evidence.of("seats/users-16"), evidence.of("load/users-16/vllm/")
    if not one or not many:
        return False, ""
    if fault := lost(one, "one-seat") or lost(many, "run-load"):
        return False, fault
    slow, fast = (Spread.of(medians(entries, "output_tok_s")) for entries in (one, many))
    if slow is None or fast is None:
        return False, "no throughput is recorded: run the cells `run-load` and `one-seat`"
    ratio = fast.median / slow.median
    text = f"{ratio:.1f} times as fast: {fast} tok/s with 32 seats, {slow} with one, at 16 users"
    return evidence.judged(ratio >= BATCHING_AT_LEAST, text)


def collapse(evidence: Evidence) -> tuple[bool, str]:
    loads, entry = evidence.of(open_loop.PREFIX), evidence.of("slo").get("slo")
    if len(loads) < 2 or entry is None:
        return False, ""
    slo = Slo(**entry["values"])
    points = open_loop.points(loads, lambda key: traces(evidence, key), slo)
    last, best = points[-1], max(point.output_tok_s for point in points)
    text = (
        f"at {last.percent} % of the capacity throughput is {100 * last.output_tok_s / best:.0f} % of the best, and "
        f"{last.kept_percent:.0f} % of requests kept the promise, against "
        f"{max(point.kept_percent for point in points):.0f} % at best"
    )
    if open_loop.holds_and_collapses(points):
        return evidence.judged(True, text)
    return evidence.judged(False, text + open_loop.another_promise(points))


def traces(evidence: Evidence, key: str) -> list[Trace]:
    return [Trace.restore(plain) for plain in evidence.raw(key)]


def prefix(evidence: Evidence) -> tuple[bool, str]:
    runs = evidence.of("prefix/")
    shared = [key.rpartition("/")[2] for key in runs if key.startswith("prefix/on/shared-")]
    if not shared:
        return False, ""
    longest = max(shared, key=lambda name: int(name.rpartition("-")[2]))
    for key, cell in (("prefix/on/unique", "prefix-on"), (f"prefix/off/{longest}", "prefix-off")):
        if key not in runs:
            return False, f"missing: {key}: run the cell `{cell}`"
    on, off = (runs[f"prefix/{way}/{longest}"]["values"] for way in ("on", "off"))
    hits = {name: rate(runs[f"prefix/on/{name}"]["values"]) for name in (longest, "unique")}
    text = (
        f"{100 * hits[longest]:.0f} % of prompt tokens from the cache and a TTFT of {on['ttft_ms']['median']:.0f} ms, "
        f"{off['ttft_ms']['median']:.0f} ms without it; for unique prompts {100 * hits['unique']:.1f} % from the cache"
    )
    if hits[longest] <= 0.5 or hits["unique"] >= 0.05:
        return False, text
    return evidence.judged(on["ttft_ms"]["median"] < off["ttft_ms"]["median"], text)


def rate(values: dict[str, Any]) -> float:
    """The share of prompt tokens that came from the prefix cache, by the engine's own counter."""
    return float(values["counted"]["cached_tokens"] / max(values["counted"]["cache_queries"], 1.0))


def preempted(evidence: Evidence) -> tuple[bool, str]:
    runs = evidence.of("preempt/")
    if missing := [name for name in ("ample", "scarce") if f"preempt/{name}" not in runs]:
        cells = " and ".join(f"`preempt-{name}`" for name in missing)
        return False, f"missing: {', '.join(missing)}: run the cell{'s' * (len(missing) > 1)} {cells}"
    counts = {name: runs[f"preempt/{name}"]["values"]["counted"]["preemptions"] for name in ("ample", "scarce")}
    text = f"{counts['scarce']:.0f} preemptions with few blocks, {counts['ample']:.0f} with enough, by vLLM's counter"
    return counts["scarce"] > 0 == counts["ample"], text


def kv_cache(evidence: Evidence) -> tuple[bool, str]:
    (shared, about_shared), (blocks, about_blocks) = prefix(evidence), preempted(evidence)
    if not about_shared:
        return False, ""
    return shared and blocks, f"{about_shared}; {about_blocks}"


def task(evidence: Evidence) -> tuple[bool, str]:
    tried = evidence.of("task/")
    if missing := [key for key in (open_task.TODAY, open_task.MINE) if key not in tried]:
        cells = {open_task.TODAY: "task-today", open_task.MINE: "my-change"}
        return False, f"missing: {', '.join(missing)}: run the cell `{cells[missing[0]]}`"
    today, mine = tried[open_task.TODAY], tried[open_task.MINE]
    found, goal = traces(evidence, open_task.MINE), open_task.goal(today)
    fault = open_task.fault(today, mine, found)
    held = f"{open_task.kept(found, goal.slo)} of {len(found)} requests kept the promise"
    held += f", a small sample for {open_task.ENOUGH_PERCENT} %"
    text = f"flags changed: {open_task.changes(today, mine)}; {fault or held}"
    if naive := tried.get(open_task.MORE_SEATS):
        others = traces(evidence, open_task.MORE_SEATS)
        text += f"; with {open_task.changes(today, naive)} alone {open_task.kept(others, goal.slo)} of {len(others)}"
    return evidence.judged(not fault, text)


def partial(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("died").get("died")
    if entry is None:
        return False, ""
    values = entry["values"]
    good = values["requests"] - values["failed"]
    text = f"{good} of {values['requests']} requests answered before the server died, {values['failed']} marked failed"
    return good > 0 and values["failed"] > 0, f"{text} ({values['first_error']})"


CLAIMS = (
    Claim("The text of your engine is the model's, whatever batch a request was in", same_text,
          {"own/greedy": "own-text"}, SCHEDULER),
    Claim("Continuous batching has a shorter TTFT than static, and chunks shorten the pauses", three_ways,
          {"own/schedule/": "three-ways"}, SCHEDULER),
    Claim(f"Your engine reaches {PARITY} of vLLM's throughput at 16 users", parity,
          {"load/users-16/": "run-load"}, SCHEDULER),
    Claim("The throughput depends on vLLM's seats (`--max-num-seqs`), not only on the load", seats,
          {"load/users-16/vllm": "run-load", "seats/": "one-seat"}),
    Claim("Beyond the capacity, throughput holds while goodput collapses", collapse,
          {"slo": "choose-slo", "open/": "run-open-loop"}),
    Claim("A shared beginning is computed once and shortens TTFT; too few blocks cause preemptions", kv_cache,
          {"prefix/on/": "prefix-on", "prefix/off/": "prefix-off",
           "preempt/ample": "preempt-ample", "preempt/scarce": "preempt-scarce"}),
    Claim("The results of a load whose server died are kept, and its failed requests are marked", partial,
          {"died": "server-dies"}),
    Claim(f"Your flags hold the promise at {open_task.TIMES} times the capacity of today's server", task,
          {open_task.TODAY: "task-today", open_task.MORE_SEATS: "more-seats", "task/": "my-change"}),
)  # fmt: skip

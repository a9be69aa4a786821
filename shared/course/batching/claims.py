"""Lab 3.3.2: what its milestone claims, and by which results each claim is borne out."""

from typing import Any

from shared.course.evidence import Claim, Evidence
from shared.load.client import Trace
from shared.metrics.correctness import gap_fault
from shared.metrics.spread import Spread
from shared.metrics.summary import Slo
from shared.results.reading import Entry

SCHEDULER = ("blocks_needed", "give_back", "admit", "plan_step", "choose_victims")
BATCHES = ("alone", "together", "squeezed")
PARITY = 0.7  # of vLLM's throughput
BATCHING_AT_LEAST = 2.0  # how many times the throughput of one seat: less would be no batching
HOLDS, COLLAPSES = 0.8, 0.6  # of the best throughput; of the best share of requests that kept the SLO


def medians(entries: dict[str, Entry], value: str) -> list[float]:
    found = [entry["values"][value] for entry in entries.values()]
    return [one["median"] if isinstance(one, dict) else one for one in found]


def same_text(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("own/greedy").get("own/greedy")
    if entry is None:
        return False, "nothing recorded: run the cell `own-text`"
    raw = evidence.raw("own/greedy")
    seen = []
    for batch in BATCHES:
        gaps = [gap for answer in raw[batch] for gap in answer]
        if fault := gap_fault(gaps):
            return False, f"{batch}: {fault}"
        seen.append(f"{batch} {max(gaps):.3f}")
    if not entry["values"]["preemptions"]:
        return False, "nothing was preempted in the squeezed batch: fewer blocks, in the cell `own-text`"
    text = f"worst gap in nats, {', '.join(seen)}, over {len(gaps)} tokens each"
    return True, f"{text}; {entry['values']['preemptions']} preemptions in the squeezed one"


def three_ways(evidence: Evidence) -> tuple[bool, str]:
    ways = evidence.of("own/schedule/")
    if missing := [w for w in ("static", "continuous", "chunked") if f"own/schedule/{w}" not in ways]:
        return False, f"missing: {', '.join(missing)}: run the cell `three-ways`"
    ttft = {way: ways[f"own/schedule/{way}"]["values"]["ttft_ms"]["median"] for way in ("static", "continuous")}
    pause = {way: ways[f"own/schedule/{way}"]["values"]["itl_ms"]["high"] for way in ("continuous", "chunked")}
    text = (
        f"median TTFT {ttft['static']:,.0f} ms static, {ttft['continuous']:,.0f} continuous; longest pause "
        f"{pause['continuous']:,.0f} ms with whole prompts, {pause['chunked']:,.0f} in chunks"
    )
    return evidence.judged(ttft["continuous"] < ttft["static"] and pause["chunked"] < pause["continuous"], text)


def parity(evidence: Evidence) -> tuple[bool, str]:
    own, theirs = (evidence.of(f"load/users-16/{who}/") for who in ("yours", "vllm"))
    if not own or not theirs:
        return False, "nothing recorded at 16 users: run the cell `run-load`"
    ratios = [Spread.of(medians(entries, "output_tok_s")) for entries in (own, theirs)]
    if ratios[0] is None or ratios[1] is None:
        return False, "no throughput is recorded: run the cell `run-load`"
    ratio = ratios[0].median / ratios[1].median
    text = f"{ratio:.2f} of vLLM's at 16 users: {ratios[0]} and {ratios[1]} tok/s"
    models = {entry["provenance"]["model"] for entry in (*own.values(), *theirs.values())}
    if len(models) > 1:
        return True, f"{text}, of different models ({', '.join(sorted(models))}): no comparison of engines"
    return evidence.judged(ratio >= PARITY, text)


def seats(evidence: Evidence) -> tuple[bool, str]:
    one, many = evidence.of("seats/users-32"), evidence.of("load/users-32/vllm/")
    if not one or not many:
        return False, "nothing recorded: run the cells `run-load` and `one-seat`"
    slow, fast = (Spread.of(medians(entries, "output_tok_s")) for entries in (one, many))
    if slow is None or fast is None:
        return False, "no throughput is recorded: run the cells `run-load` and `one-seat`"
    ratio = fast.median / slow.median
    text = f"{ratio:.1f} times: {fast} tok/s with 32 seats, {slow} with one, at 32 users"
    return evidence.judged(ratio >= BATCHING_AT_LEAST, text)


def collapse(evidence: Evidence) -> tuple[bool, str]:
    points, entry = evidence.of("open/"), evidence.of("slo").get("slo")
    if len(points) < 3 or entry is None:
        return False, "nothing recorded: run the cells `choose-slo` and `run-open-loop`"
    slo = Slo(**entry["values"])
    kept = {key: shares(evidence, key, slo) for key in points}
    worst = max(points, key=lambda key: points[key]["provenance"]["load"]["rate_per_s"])
    best = max(value["values"]["output_tok_s"] for value in points.values())
    held = points[worst]["values"]["output_tok_s"] / best
    text = (
        f"at the highest rate {100 * held:.0f} % of the best throughput, and {100 * kept[worst]:.0f} % of requests "
        f"kept the SLO, against {100 * max(kept.values()):.0f} % at best"
    )
    return evidence.judged(held >= HOLDS and kept[worst] <= COLLAPSES * max(kept.values()), text)


def shares(evidence: Evidence, key: str, slo: Slo) -> float:
    """The share of a run's requests that kept the SLO, from its raw traces."""
    traces = [Trace.restore(plain) for plain in evidence.raw(key)]
    return sum(slo.kept(trace) for trace in traces) / len(traces)


def prefix(evidence: Evidence) -> tuple[bool, str]:
    runs = evidence.of("prefix/")
    shared = sorted(key.rpartition("/")[2] for key in runs if key.startswith("prefix/on/shared-"))
    if not shared or "prefix/on/unique" not in runs or f"prefix/off/{shared[-1]}" not in runs:
        return False, "nothing recorded: run the cells `prefix-on` and `prefix-off`"
    longest = max(shared, key=lambda name: int(name.rpartition("-")[2]))
    on, off = (runs[f"prefix/{way}/{longest}"]["values"] for way in ("on", "off"))
    hits = {name: rate(runs[f"prefix/on/{name}"]["values"]) for name in (longest, "unique")}
    text = (
        f"{100 * hits[longest]:.0f} % of prompt tokens from the cache and TTFT {on['ttft_ms']['median']:.0f} ms, "
        f"{off['ttft_ms']['median']:.0f} without it; unique prompts {100 * hits['unique']:.1f} %"
    )
    if hits[longest] <= 0.5 or hits["unique"] >= 0.05:
        return False, text
    return evidence.judged(on["ttft_ms"]["median"] < off["ttft_ms"]["median"], text)


def rate(values: dict[str, Any]) -> float:
    """Of all prompt tokens, the share that the engine's own counter took from its prefix cache."""
    return float(values["counted"]["cached_tokens"] / max(values["counted"]["cache_queries"], 1.0))


def preempted(evidence: Evidence) -> tuple[bool, str]:
    runs = evidence.of("preempt/")
    if missing := [name for name in ("ample", "scarce") if f"preempt/{name}" not in runs]:
        return False, f"missing: {', '.join(missing)}: run the cells `preempt-{missing[0]}`"
    counts = {name: runs[f"preempt/{name}"]["values"]["counted"]["preemptions"] for name in ("ample", "scarce")}
    speed = {name: runs[f"preempt/{name}"]["values"]["output_tok_s"] for name in ("ample", "scarce")}
    text = (
        f"{counts['scarce']:.0f} preemptions with few blocks, {counts['ample']:.0f} with enough, by its counter; "
        f"{speed['scarce']:.0f} and {speed['ample']:.0f} tok/s"
    )
    return counts["scarce"] > 0 == counts["ample"], text


def partial(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("died").get("died")
    if entry is None:
        return False, "nothing recorded: run the cell `server-dies`"
    values = entry["values"]
    good = values["requests"] - values["failed"]
    text = f"{good} of {values['requests']} requests answered before the server died, {values['failed']} marked failed"
    return good > 0 and values["failed"] > 0, f"{text} ({values['first_error']})"


CLAIMS = (
    Claim("Your engine's text is the model's, whatever batch a request was in", same_text, ("own/greedy",), SCHEDULER),
    Claim("Continuous batching answers sooner than static, and chunks shorten the pauses", three_ways,
          ("own/schedule/",), SCHEDULER),
    Claim(f"Your engine reaches {PARITY} of vLLM's throughput at 16 users", parity, ("load/users-16/",), SCHEDULER),
    Claim("vLLM's seats (`--max-num-seqs`), not the load, make the throughput", seats,
          ("seats/", "load/users-32/vllm")),
    Claim("Past the knee throughput holds while goodput collapses", collapse, ("open/", "slo")),
    Claim("Prefix caching pays where prompts share a beginning, and only there", prefix, ("prefix/",)),
    Claim("Too few blocks preempt: the counter says so, and enough blocks don't", preempted, ("preempt/",)),
    Claim("A load on a server that died is kept, and marked", partial, ("died",)),
)  # fmt: skip

"""The lab's tables: of results that are measured already, and of what a server answers to bad requests."""

import json
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.client import Trace
from shared.metrics.spread import Spread, number
from shared.metrics.summary import Summary, late_ms
from shared.report.table import Table
from shared.results.reading import Entry

Entries = Mapping[str, Entry]
NO_JSON = b"{not json"


def growth(few: Sequence[float], many: Sequence[float]) -> Spread:
    """How many times `many` is `few`: the ratio of the medians, and the least and largest ratio of any two rounds."""
    a, b = Spread.of(few), Spread.of(many)
    assert a is not None, "no round was measured with few users"
    assert b is not None, "no round was measured with many users"
    return Spread(b.median / a.median, b.low / a.high, b.high / a.low, min(a.n, b.n))


def beside_rounds(value: float, rounds: Sequence[float]) -> str:
    """Whether one measurement differs from several rounds by more than these do among themselves."""
    if value > max(rounds):
        return f"higher than in all {len(rounds)}"
    return f"lower than in all {len(rounds)}" if value < min(rounds) else f"within the range of the {len(rounds)}"


def of_rounds(entries: Entries, prefix: str, value: str) -> list[float]:
    """One figure (of a spread the median) of the result with this key, or of each result below it."""
    found = [entry["values"][value] for key, entry in entries.items() if is_of(prefix, key)]
    return [float(one["median"] if isinstance(one, dict) else one) for one in found]


def is_of(prefix: str, key: str) -> bool:
    """Whether the key is `prefix` or lies below it; compiled/users-16 is not below compiled/users-1."""
    return key == prefix or key.startswith(prefix.rstrip("/") + "/")


def spread(entries: Entries, prefix: str, value: str) -> str:
    return str(Spread.of(of_rounds(entries, prefix, value)) or "–")


def own_text(found: Mapping[str, Any]) -> Table:
    """The worst gap of each kind of batch, and how many texts did not depend on the batch."""
    worst, equal = found["worst_by_batch_nats"], found["texts_as_alone"]
    rows = [(batch, f"{worst[batch]:.3f}", f"{equal[batch]} of {found['questions']}") for batch in worst]
    return Table(
        "How far your engine's text is from the reference",
        ("batch", "worst gap, nats", "texts equal to those answered alone"),
        rows,
    )


def control(ways: Mapping[str, Summary]) -> Table:
    """The three schedules on requests that give them nothing to decide."""
    rows = [
        (way, f"{one.counted['steps']:.0f}", number(one.output_tok_s), str(one.ttft_ms)) for way, one in ways.items()
    ]
    header = ("schedule", "steps", "output tok/s", "TTFT, ms")
    return Table("The control: eight requests at once, answers of one length", header, rows)


def queue_and_prefill(entries: Entries, users_at_once: Sequence[int]) -> Table:
    """Where TTFT goes, by vLLM's own counters."""
    rows = []
    for users in users_at_once:
        values = entries[f"load/users-{users}/vllm/round-1"]["values"]
        counted = values["counted"]
        queue_ms = 1e3 * counted["queue_s"] / counted["queued_requests"]
        prefill_ms = 1e3 * counted["prefill_s"] / counted["prefills"]
        rows.append((str(users), f"{queue_ms:.0f}", f"{prefill_ms:.0f}", f"{values['ttft_ms']['median']:.0f}"))
    header = ("users", "mean time in the queue, ms", "mean prefill, ms", "median TTFT seen by the client, ms")
    return Table("Time in the queue and in prefill, by vLLM's counters (round 1)", header, rows)


def seats(entries: Entries) -> Table:
    """The same 16 users with 32 seats and with one."""
    compared = {
        "vLLM, 32 seats": "load/users-16/vllm/",
        "vLLM, 1 seat": "seats/users-16",
        "your engine, 32 seats": "load/users-16/yours/",
    }
    rows = [
        (name, *(spread(entries, prefix, value) for value in ("output_tok_s", "ttft_ms", "itl_ms")))
        for name, prefix in compared.items()
    ]
    return Table("The same 16 users, by number of seats", ("server", "output tok/s", "TTFT, ms", "ITL, ms"), rows)


def shorter(entries: Entries, name: str) -> float:
    """How many times shorter the median TTFT of these prompts is with prefix caching."""
    on, off = (entries[f"prefix/{way}/{name}"]["values"]["ttft_ms"]["median"] for way in ("on", "off"))
    return float(off / on)


def prefix(entries: Entries, names: Sequence[str]) -> Table:
    """TTFT with prefix caching and without, and the hit rate by the engine's counter."""
    rows = []
    for name in names:
        on, off = (entries[f"prefix/{way}/{name}"]["values"] for way in ("on", "off"))
        hits = on["counted"]["cached_tokens"] / on["counted"]["cache_queries"]
        with_it, without = (Spread(**values["ttft_ms"]) for values in (on, off))
        what = name.replace("shared-", "shared, ") + " tokens" * name.startswith("shared")
        rows.append((what, f"{100 * hits:.0f} %", str(with_it), str(without), f"{shorter(entries, name):.1f}"))
    header = ("prompts", "hit rate", "TTFT with the cache, ms", "TTFT without, ms", "times shorter")
    return Table("TTFT with prefix caching and without (three requests each)", header, rows)


def stall(seen: Mapping[str, Sequence[Trace]], promised_ms: float, stall_s: float) -> Table:
    """The same stall in the latencies of a closed and an open loop, counted from the schedule.

    A request that failed counts as later than promised, however soon it failed. It has no latency.
    """
    rows = []
    for loop, traces in seen.items():
        waits = [trace.e2e_ms + late_ms(trace) for trace in traces if trace.error is None]
        slow = sum(wait > promised_ms for wait in waits) + len(traces) - len(waits)
        mean_ms, worst_ms = (f"{sum(waits) / len(waits):.0f}", f"{max(waits):.0f}") if waits else ("–", "–")
        share = f"{slow} ({100 * slow / len(traces):.0f} %)"
        rows.append((loop, str(len(traces)), mean_ms, share, worst_ms))
    title = f"A stall of {stall_s:.1f} s in two loops; promised: an answer within {promised_ms:.0f} ms"
    return Table(title, ("loop", "requests", "mean latency, ms", "later than promised", "worst latency, ms"), rows)


def preemptions(runs: Mapping[str, Summary]) -> Table:
    """What too few blocks do to the same sixteen users."""
    rows = [
        (blocks, f"{one.counted['preemptions']:.0f}", number(one.itl_ms.high) if one.itl_ms else "–")
        for blocks, one in runs.items()
    ]
    return Table(
        "Sixteen users with enough blocks and with too few", ("blocks", "preemptions", "longest gap, ms"), rows
    )


def room_for_kv(used: Sequence[int], context: int, blocks_needed: Callable[[int, int], Any]) -> dict[str, int]:
    """Tokens of memory that these requests take: reserved beforehand, and in blocks of two sizes."""
    return {
        f"reserved, whole context ({context:,})": len(used) * context,
        f"reserved, longest request ({max(used)})": len(used) * max(used),
        "blocks of 128": sum(blocks_needed(tokens, 128) * 128 for tokens in used),
        "blocks of 16": sum(blocks_needed(tokens, 16) * 16 for tokens in used),
    }


def room(used: Sequence[int], taken: Mapping[str, int]) -> Table:
    rows = [(name, f"{tokens:,}", f"{100 * (1 - sum(used) / tokens):.0f} %") for name, tokens in taken.items()]
    return Table(f"Memory for the keys and values of {len(used)} requests", ("way", "room, tokens", "empty"), rows)


def eager_or_compiled(entries: Entries, users_at_once: Sequence[int]) -> tuple[Table, list[str]]:
    """Start-up and throughput of both, and for each load whether they differ by more than the eager rounds do."""
    eager = {users: f"load/users-{users}/vllm/" for users in users_at_once}
    # The quick size compiles nothing, and so leaves what the full size has recorded.
    sizes = {e["provenance"].get("size") for key, e in entries.items() if is_of(eager[users_at_once[0]], key)}
    entries = {key: e for key, e in entries.items() if e["provenance"].get("size") in sizes}
    compiled = {users: f"compiled/users-{users}" for users in users_at_once}
    header = ("", "start-up, s", *(f"tok/s, {users} user{'s' * (users > 1)}" for users in users_at_once))
    rows = []
    for name, keys in (("eager", eager), ("compiled", compiled)):
        first = next((entry for key, entry in entries.items() if is_of(keys[users_at_once[0]], key)), None)
        if first:
            speeds = (spread(entries, prefix, "output_tok_s") for prefix in keys.values())
            startup_s = first["provenance"]["startup_s"]  # 0 for a server that was started in a terminal
            rows.append((name, f"{startup_s:.0f}" if startup_s else "–", *speeds))
    sentences = [
        f"{users} user{'s' * (users > 1)}: compiled throughput is "
        f"{beside_rounds(value, of_rounds(entries, eager[users], 'output_tok_s'))} eager rounds"
        for users in users_at_once
        for value in of_rounds(entries, compiled[users], "output_tok_s")
    ]
    return Table("Eager or compiled", header, rows), sentences


def logged_reason(error: LabError) -> str:
    """The line of an engine's log that explains why it did not start, without pydantic's details."""
    line = (str(error).partition("in its log: ")[2] or str(error)).splitlines()[0]
    return line.partition(" [type=")[0][-110:]


def answer_to(engine: Engine, path: str, body: Mapping[str, Any] | bytes) -> tuple[int, str]:
    """Send the body as JSON (bytes as they are). Returns the HTTP status and the text of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(engine.url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def refusals(engine: Engine, tries: Mapping[str, tuple[str, Mapping[str, Any] | bytes]]) -> Table:
    """The status and message that each request gets. tries: what is wrong with it → (path, body)."""
    rows = []
    for what, (path, body) in tries.items():
        status, text = answer_to(engine, path, body)
        rows.append((what, str(status), textwrap.shorten(message_of(text), 110, placeholder=" …")))
    return Table("What a bad request gets", ("request", "status", "the server's message"), rows)


def message_of(text: str) -> str:
    """The message of an OpenAI-shaped error; any other text as it is."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return text

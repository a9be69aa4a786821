"""Tables and pictures of the experiments on Ollama, of results that are measured already."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from shared.course.labs import OpenLab
from shared.course.webui.in_chromium.any_page import NEXT_LIMIT_S
from shared.course.webui.ollama_api import NS_PER_MS, fits
from shared.load.client import Trace
from shared.metrics.spread import Spread, number
from shared.report.plots import INK, Plot, layout
from shared.report.table import Table

Values = Mapping[str, Any]
SEATS = (1, 4)
LONGEST = 110  # characters of an answer in a table
WAITS, STREAMS = ("#d8dee4", "/"), ("#009E73", "")


def prefill(found: Values) -> Table:
    """Both rates of a prompt that was sent twice."""
    rows = []
    for name, one in found.items():
        rows.append((
            name, str(one["prompt_tokens"]), known(one["cached_tokens"]), number(one["prefill_ms"]),
            number(one["by_all_tok_s"]), known(one["by_computed_tok_s"]),
        ))  # fmt: skip
    header = (
        "request", "prompt_eval_count", "of those cached", "prompt_eval_duration, ms",
        "rate by all tokens, tok/s", "rate by computed tokens, tok/s",
    )  # fmt: skip
    return Table("The same prompt twice", header, rows)


def known(value: float | None) -> str:
    return "–" if value is None else number(value)


def keep_alive(seen: Sequence[Values]) -> Table:
    rows = []
    for one in seen:
        listed = ", ".join(f"{model['name']} until {model['expires_at'][:19]}" for model in one["loaded"]) or "nothing"
        load = "" if one["load_ns"] is None else number(one["load_ns"] / NS_PER_MS)
        after = "" if one["after_s"] is None else f"{one['after_s']:.1f}"
        rows.append((one["what"], listed, known(one["resident_gib"]), load, after))
    header = ("", "/api/ps lists", "memory of Ollama's processes, GiB", "load_duration, ms", "gone after, s")
    return Table("When a model is in memory", header, rows)


def contexts(seen: Sequence[Values], expected_bytes: int) -> Table:
    """`expected_bytes`: of the KV cache for each token, by arithmetic."""
    rows, least = [], seen[0]
    for one in seen:
        more = one["size_bytes"] - least["size_bytes"]
        computed = (one["num_ctx"] - least["num_ctx"]) * expected_bytes
        rows.append((
            str(one["num_ctx"]), number(one["size_bytes"] / 2**20), number(more / 2**20), number(computed / 2**20),
            known(one["resident_gib"]), number(one["load_ns"] / NS_PER_MS),
        ))  # fmt: skip
    header = (
        "num_ctx", "size in /api/ps, MiB", "more than the first, MiB", "KV cache by arithmetic, MiB more",
        "memory of Ollama's processes, GiB", "load_duration, ms",
    )  # fmt: skip
    return Table("One model, several contexts", header, rows)


def parallel(lab: OpenLab) -> Table:
    """Throughput, TTFT and ITL of four users, and the memory, by the number of seats: medians over the rounds."""
    results, rows = lab.results(), []
    for seats in SEATS:
        rounds = [one["values"] for key, one in results.items() if key.startswith(f"parallel/{seats}/")]
        memory = results[f"ollama/memory/{seats}"]["values"]
        speeds = Spread.of([one["output_tok_s"] for one in rounds])
        medians = [Spread.of([one[name]["median"] for one in rounds]) for name in ("ttft_ms", "itl_ms")]
        slowest = Spread.of([one["ttft_ms"]["high"] for one in rounds])
        rows.append((
            str(seats), str(speeds), str(medians[0]), str(slowest), str(medians[1]),
            number(memory["size_bytes"] / 2**20),
        ))  # fmt: skip
    header = (
        "OLLAMA_NUM_PARALLEL", "throughput, tok/s", "median TTFT, ms", "longest TTFT, ms", "median ITL, ms",
        "size in /api/ps, MiB",
    )  # fmt: skip
    return Table(f"Four users at once ({len(rounds)} rounds)", header, rows)


def unluckiest(lab: OpenLab, seats: int) -> float:
    """The longest TTFT of the first round with so many seats, as a multiple of the shortest."""
    ttft = lab.results()[f"parallel/{seats}/round-1"]["values"]["ttft_ms"]
    return float(ttft["high"] / ttft["low"])


def wait_behind(lab: OpenLab, page: str) -> float | str:
    """How many seconds a second request waited for the only seat after a stop on this page, or a text without one."""
    stop = lab.raw(f"browser/{page}")["stop"]
    if "failed" in stop:
        return "the check could not be done"
    return stop["second_ms"] / 1e3 if stop["second_ms"] else f"more than {NEXT_LIMIT_S} s"


def queue(title: str, traces: Sequence[Trace]) -> Plot:
    """Each request as a bar: how long it waited for its first token, and how long it streamed."""
    ordered = sorted(traces, key=lambda one: one.arrivals_ns)
    began = min(one.sent_ns for one in traces)
    figure = go.Figure(layout=layout(title, "seconds since the first request", ""))
    rows = []
    for place, one in enumerate(ordered, 1):
        first = one.arrivals_ns[0]
        for phase, start, end, (colour, pattern) in (
            ("waits", one.sent_ns, first, WAITS), ("streams", first, one.end_ns, STREAMS),
        ):  # fmt: skip
            figure.add_bar(
                y=[f"request {place}"], x=[(end - start) / 1e9], base=[(start - began) / 1e9], orientation="h",
                name=phase, showlegend=place == 1, width=0.6,
                marker={"color": colour, "line": {"color": INK, "width": 0.5}, "pattern": {"shape": pattern}},
            )  # fmt: skip
        times = ((one.sent_ns - began) / 1e9, (first - one.sent_ns) / 1e9, (one.end_ns - first) / 1e9)
        rows.append((f"request {place}", *(f"{seconds:.2f}" for seconds in times)))
    figure.update_layout(barmode="overlay", height=340)
    figure.update_yaxes(autorange="reversed")
    return Plot(title, ("", "sent after, s", "waits, s", "streams, s"), rows, figure)


def templates(seen: Mapping[str, Sequence[Values]]) -> Table:
    """The answers of the same weights under each template."""
    rows = []
    for name, found in seen.items():
        for one in found:
            end = "by itself" if one["reason"] == "stop" else f"cut off after {one['tokens']} tokens"
            rows.append((name, one["question"], shortened(one["text"]), end))
    return Table("The same weights, three templates", ("template", "question", "answer", "ended"), rows)


def shortened(text: str) -> str:
    """A text on one line, with its line breaks as ⏎."""
    line = text.strip().replace("\n", "⏎")
    return (line if len(line) <= LONGEST else line[:LONGEST] + "…") or "(empty)"


def structured(seen: Mapping[str, Sequence[str]]) -> Table:
    rows = [
        (f"{name} a schema", shortened(text), "yes" if fits(text) else "no")
        for name, texts in seen.items()
        for text in texts
    ]
    return Table("Four cities in JSON", ("request", "answer", "fits the schema as it stands"), rows)


def open_webui(lab: OpenLab) -> Table:
    """What was measured of Open WebUI, one line for each experiment that was run here."""
    results, rows = lab.results(), []
    told = {"tools": tools_in_words, "hidden": hidden_in_words, "added": added_in_words, "settings": settings_in_words}
    for name, words in told.items():
        values = results.get(f"open-webui/{name}", {}).get("values", {})
        rows.append(
            (name, f"not run here: {values['missing']}" if "missing" in values else words(values) if values else "–")
        )
    return Table("Open WebUI in front of this Ollama", ("experiment", "what was found"), rows)


def tools_in_words(v: Values) -> str:
    before, after = ("answered" if v[f"answered_{when}"] else "refused" for when in ("before", "after"))
    return (
        f"as installed, a message in its page carries {v['tools_before']} tools ({v['bytes_of_tools']:,} bytes) and is "
        f"{before}; with the switches off it carries {v['tools_after']} and is {after}"
    )


def hidden_in_words(v: Values) -> str:
    sums = {name: f"{' + '.join(map(str, v[name]))} requests" for name in ("off", "on")}
    return f"two messages: {sums['on']} with title, tags and follow-ups switched on, {sums['off']} with them off"


def added_in_words(v: Values) -> str:
    return (
        f"TTFT {number(v['direct_ms'])} ms direct, {number(v['through_ms'])} ms through it; median of the differences "
        f"{number(v['added_ms'])} ms ({v['rounds']} rounds)"
    )


def settings_in_words(v: Values) -> str:
    return (
        f"new values that a restart ignored: {', '.join(v['ignored']) or 'none'}; {v['right']} of {v['of']} predicted"
    )

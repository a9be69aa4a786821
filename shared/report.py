"""The comparison report of lab 3.3.1: one self-contained HTML and one Markdown, made from the ledger alone.

    build_report("3.3.1")      # results/report.html, results/report.md

It says nothing that the ledger doesn't hold: no typed-in number, no winner where the rounds overlap.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from shared import paths, plots, results
from shared.engines import ENGINES
from shared.errors import LabError
from shared.metrics import compare, number, prompt_tokens
from shared.page import Section, as_html
from shared.plots import Table, by_users, rounds
from shared.results import Entry

FIGURES = (  # value in the ledger, title, unit, whether more is better
    ("output_tok_s", "Output throughput, all users together", "tok/s", True),
    ("ttft_ms", "Time to first token (TTFT), median request", "ms", False),
    ("itl_ms", "Inter-token latency (ITL), median gap", "ms", False),
)


def build_report(lab: str = "3.3.1") -> Path:
    """Write both forms and return the HTML's path. Raises LabError if nothing was measured yet."""
    entries = results.load_results(lab)
    loads = {k: e for k, e in entries.items() if k.startswith("load/")}
    if not loads:
        raise LabError("There is nothing to report: the ledger holds no measured load.", "run the cell `run-load`")
    sections = [
        summary(entries),
        machine(loads),
        method(entries, loads),
        figures(entries, loads),
        start_commands(loads),
        limits(loads),
    ]
    title = "Inference engines compared"
    # Markdown first: the HTML is the file that a milestone looks at.
    results.write(paths.results() / "report.md", markdown(title, sections).encode())
    page = paths.results() / "report.html"
    results.write(page, as_html(title, source(loads), sections).encode())
    return page


def source(loads: dict[str, Entry]) -> str:
    """Where the results come from, for the line below the title."""
    processors = sorted({e["provenance"]["processor"] for e in loads.values()})
    return (
        f"Lab 3.3.1 · measured on {', '.join(processors)} · {max(e['provenance']['time'] for e in loads.values())[:10]}"
    )


def names(loads: dict[str, Entry]) -> list[str]:
    """Engines in the report, in the module's order."""
    there = {e["provenance"]["engine"] for e in loads.values()}
    return [name for name in ENGINES if name in there]


def summary(entries: dict[str, Entry]) -> Section:
    caveat = (
        " Two CPU cores rank the engines' CPU paths, not what they do on a GPU." if "cpu" in profiles(entries) else ""
    )
    users = sorted({u for _, u in rounds(entries, FIGURES[0][0])})
    rows = []
    for value, title, unit, more_is_better in FIGURES:
        data = rounds(entries, value)
        rows.append((f"{title.split(',')[0]}, {unit}", *(verdict(data, u, more_is_better) for u in users)))
    header = ("", *(f"{u} user{'s' if u > 1 else ''}" for u in users))
    table = Table("", header, rows).markdown()
    note = (
        "Named are the best engine and those whose interval overlaps with its own (95 %, of the median of the rounds, "
        "by bootstrap; with five rounds it is their range); the factor is its median against that of the best engine "
        "behind them. No winner: all overlap, or there was only one round."
    )
    text = f"**This machine, this model.**{caveat}\n\n{table}\n\n{note}"
    return Section("Which engine was ahead", text)


def profiles(entries: dict[str, Entry]) -> set[str]:
    return {e["provenance"]["profile"] for e in entries.values()}


def verdict(data: plots.Rounds, users: int, more_is_better: bool) -> str:
    """Who is ahead at one load, all whose rounds overlap the best one's, and by which factor; or that nobody is."""
    at = {engine: values for (engine, u), values in data.items() if u == users}
    if len(at) < 2:
        return "only one measured"
    ranked = sorted(at, key=lambda e: statistics.median(at[e]), reverse=more_is_better)
    ratios = {e: ratio for e in ranked if (ratio := compare(at[ranked[0]], at[e])) is not None}
    if not ratios:
        return "no winner"
    ahead = [f"**{ENGINES[e].title}**" for e in ranked if e not in ratios]
    ratio = next(iter(ratios.values()))  # to the best of those that are behind
    return f"{', '.join(ahead)}: {number(ratio if more_is_better else 1 / ratio)}×"


def machine(loads: dict[str, Entry]) -> Section:
    places: dict[tuple[str, ...], int] = {}
    for entry in loads.values():
        p = entry["provenance"]
        cores, gpu = f"{p['cores']} of {p['machine_cores']}", p["gpu"] or "none"
        place = (p["processor"], cores, f"{p['memory_gib']} GiB", gpu, p["profile"])
        places[place] = places.get(place, 0) + 1
    header = ("processor", "cores used", "memory", "GPU", "profile", "results")
    table = Table("", header, [(*place, str(count)) for place, count in places.items()]).markdown()
    text = f"{table}\n\nModel: {p['model_origin']}. Every engine ran these weights."
    if "spark" not in profiles(loads):
        text += "\n\nNot verified on hardware: nothing in this report was run on a DGX Spark."
    return Section("Machine and model", text)


def method(entries: dict[str, Entry], loads: dict[str, Entry]) -> Section:
    some = next(iter(loads.values()))["provenance"]
    times = sorted(e["provenance"]["time"] for e in loads.values())
    data = rounds(entries, "output_tok_s")
    count = min(len(v) for v in data.values())
    cached = [e["values"]["cached_tokens"] for e in loads.values()]
    prompt = sum(prompt_tokens(e["values"]) for e in loads.values())
    cache = "unknown" if None in cached else f"{sum(cached)} of about {prompt:,.0f} prompt tokens"
    shorter = [ENGINES[name].title for name in names(loads) if not ENGINES[name].exact_length]
    failed = sum(e["values"]["failed"] for e in loads.values())
    total = sum(e["values"]["requests"] for e in loads.values())
    rows = []
    for name in names(loads):
        p = next(e["provenance"] for e in loads.values() if e["provenance"]["engine"] == name)
        greedy = entries.get(f"greedy/{name}")
        gap = f"{greedy['values']['worst_gap_nats']:.3f}" if greedy else "not checked"
        rows.append((ENGINES[name].title, p["engine_version"], p["precision"], f"{p['startup_s']:.1f}", gap))
    header = ("engine", "version", "weights", "start-up, s", "worst greedy gap, nats")
    text = "\n".join(
        [
            Table("", header, rows).markdown(),
            "",
            "- Closed loop: N users, each sends its next request when its last answer has ended; "
            f"{some['prompts']} prompts, answers of exactly {some['max_tokens']} tokens"
            + (f" ({', '.join(shorter)} can't suppress its end-of-text: at most)" if shorter else "")
            + ", greedy.",
            f"- {count} rounds or more of each load, engines in turn (A B A B …), after a warm-up request per user. "
            "Figures are the median of the rounds, in brackets the least and the most. "
            "Where two engines' intervals overlap there is no winner.",
            "- Tokens are counted by the engines (`usage`), not by chunks. "
            f"Each prompt begins with a nonce; taken from prefix caches: {cache}.",
            f"- {failed} of {total} requests failed. The client used at most "
            f"{100 * max(e['values']['client_cpu_share'] for e in loads.values()):.0f} % of one core.",
            *doubts(entries, loads),
            f"- Measured from {times[0]} to {times[-1]}.",
        ]
    )
    return Section("Method", text)


def doubts(entries: dict[str, Entry], loads: dict[str, Entry]) -> list[str]:
    """What speaks against single results, a line each; or that nothing does."""
    limit = (
        entries["predict/decode-ceiling"]["values"]["ceiling_tok_s"] if "predict/decode-ceiling" in entries else None
    )
    found = []
    for key, entry in loads.items():
        values = entry["values"]
        said = [values.get(name) for name in ("client_bottleneck", "disturbed", "cache_fault")]
        if limit and values["users"] == 1 and values["output_tok_s"] > limit:
            share = 100 * values["output_tok_s"] / limit
            said.append(f"{number(values['output_tok_s'])} tok/s to one user is {share:.0f} % of the measured ceiling")
        found += [f"- **Doubtful:** {key}: {one}." for one in said if one]
    return found or ["- No result is above the measured ceiling, and no client or other program was in the way."]


def figures(entries: dict[str, Entry], loads: dict[str, Entry]) -> Section:
    return Section(
        "Figures",
        "Whiskers span the rounds. Each figure's numbers are in the table below it.",
        tuple(by_users(loads, value, title, unit, ceiling(entries, value)) for value, title, unit, _ in FIGURES),
    )


def ceiling(entries: dict[str, Entry], value: str) -> tuple[str, float] | None:
    """The bandwidth ceiling of one user's decoding, if the lab measured it."""
    entry = entries.get("predict/decode-ceiling")
    if value != "output_tok_s" or entry is None:
        return None
    limit = entry["values"]["ceiling_tok_s"]
    return "ceiling for one user", limit


def start_commands(loads: dict[str, Entry]) -> Section:
    rows = []
    for name in names(loads):
        p = next(e["provenance"] for e in loads.values() if e["provenance"]["engine"] == name)
        flags = " ".join(k if v is True else f"{k} {v}" for k, v in p["flags"].items() if v is not False)
        rows.append((ENGINES[name].title, f"`{flags}`", p["model_sha256"][:12], str(p["git_commit"] or "no git")))
    header = ("engine", "flags beyond the model's", "weights, sha256", "commit of the labs")
    return Section("How to repeat it", "`make report` in this project; engines were started with\n\n"
                   + Table("", header, rows).markdown())  # fmt: skip


def limits(loads: dict[str, Entry]) -> Section:
    return Section(
        "What this does not show",
        "\n".join(
            [
                "- One small model. A bigger one shifts time from overhead to memory and arithmetic.",
                "- Short prompts: prefill hardly counts here.",
                "- A closed loop hides how long requests would wait if users did not wait for the engine.",
                "- The client shares the cores with the engine, as it does on any single machine.",
            ]
        ),
    )


def markdown(title: str, sections: Sequence[Section]) -> str:
    out = [f"# {title}", ""]
    for section in sections:
        out += [f"## {section.title}", "", section.text, ""]
        for i, plot in enumerate(section.figures, 1):
            picture = plot.png()
            if picture:
                file = f"report-figure-{i}.png"
                results.write(paths.results() / file, picture)
                out += [f"![{plot.title}]({file})", ""]
            out += [f"**{plot.title}**", "", plot.markdown(), ""]
    return "\n".join(out)

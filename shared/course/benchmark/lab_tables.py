"""The tables that the notebook of lab 3.3.1 shows beside its plots."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from shared.engines import ENGINES
from shared.load.loads import most_at_once, users_text
from shared.metrics.spread import Spread, number
from shared.metrics.summary import Summary
from shared.report.table import Table
from shared.results.query import rounds
from shared.results.reading import Entries

Figures = Mapping[str, Mapping[str, float]]


def library_table(asked: Mapping[str, Sequence[tuple[float, float]]]) -> Table:
    """llama.cpp in this process and over HTTP; the title gives the ratios of the medians."""
    rows = [(how, *(str(Spread.of(column)) for column in zip(*seen, strict=True))) for how, seen in asked.items()]
    (inside_ttft, inside_tok_s), (http_ttft, http_tok_s) = (
        [statistics.median(column) for column in zip(*seen, strict=True)] for seen in asked.values()
    )
    title = (
        f"One user over HTTP: {http_ttft / inside_ttft:.2f}× the library's TTFT, "
        f"{http_tok_s / inside_tok_s:.2f}× its decode speed"
    )
    return Table(title, ("llama.cpp", "TTFT, ms", "decode, tok/s"), rows)


def loops_table(own: Mapping[str, float], labs: Summary) -> Table:
    """What a student's closed loop measured, beside what the lab's own loop measured with the same load."""
    ttft_ms = number(labs.ttft_ms.median) if labs.ttft_ms else "–"
    at_once = str(most_at_once(labs.run.traces))
    rows = [
        ("yours", number(own["users_at_once"]), number(own["answers"]), number(own["ttft_ms"]), number(own["tok_s"])),
        ("the lab's", at_once, str(labs.requests - labs.failed), ttft_ms, number(labs.output_tok_s)),
    ]
    header = ("load generator", "requests at once, at most", "answers", "TTFT, median, ms", "throughput, tok/s")
    return Table(f"One load, two load generators: {users_text(labs.users)}, {labs.requests} requests", header, rows)


def reported_by_ollama(shown: Any, loaded: Sequence[Any], asked: Mapping[str, str]) -> Table:
    """What the labs asked of Ollama, beside what its own `show()` and `ps()` report."""
    running = loaded[0] if loaded else None
    rows = [
        ("precision of the weights", asked["precision"], str(shown.details.quantization_level), "show()"),
        ("context of a request, tokens", asked["context"], str(running.context_length if running else "–"), "ps()"),
    ]
    equal = all(row[1] == row[2] for row in rows)
    title = "Ollama reports what was asked" if equal else "Ollama reports something else than was asked"
    return Table(title, ("", "asked", "reported", "by"), rows)


def beside_ledger(figures: Figures, entries: Entries, users: int) -> Table:
    """A student's figures of the first round at so many users, beside the ledger's."""
    rows = []
    for name in ENGINES:
        if (mine := figures.get(key := f"load/users-{users}/{name}/round-1")) is None:
            continue
        theirs = entries[key]["values"]
        rows.append(
            (
                ENGINES[name].title,
                f"{mine['ttft_ms']:.1f} / {theirs['ttft_ms']['median']:.1f}",
                f"{mine['tpot_ms']:.2f} / {theirs['tpot_ms']['median']:.2f}",
                f"{mine['output_tok_s']:.1f} / {theirs['output_tok_s']:.1f}",
            )
        )
    title = f"Yours / the ledger's, {users_text(users)}, round 1"
    return Table(title, ("engine", "TTFT, ms", "TPOT, ms", "throughput, tok/s"), rows)


def apart(own: Mapping[str, float], values: Mapping[str, Any]) -> float:
    """The largest relative difference between a student's figures of a load and the ledger's."""
    theirs = {
        "ttft_ms": values["ttft_ms"]["median"],
        "tpot_ms": values["tpot_ms"]["median"],
        "output_tok_s": values["output_tok_s"],
    }
    return max(abs(own[name] / float(value) - 1) for name, value in theirs.items())


def per_token_table(entries: Entries) -> Table:
    """TTFT per prompt token at the shortest and the longest prompt, and by how much it grows between them."""
    found = rounds(entries, "ttft_ms", "prompt/", "input_tokens")
    per_token = {(name, tokens): statistics.median(ms) / tokens for (name, tokens), ms in found.items()}
    lengths = sorted({tokens for _, tokens in per_token})
    short, long = lengths[0], lengths[-1]
    rows = [
        (
            ENGINES[name].title,
            number(per_token[name, short]),
            number(per_token[name, long]),
            f"{per_token[name, long] / per_token[name, short]:.2f}×",
        )
        for name in ENGINES
        if {(name, short), (name, long)} <= per_token.keys()
    ]
    header = ("engine", f"{short} tokens, ms per token", f"{long} tokens, ms per token", "growth")
    return Table(f"TTFT per prompt token, from {short} to {long} tokens", header, rows)


Ahead = Callable[[list[float], list[float]], str | None]


def winners_table(entries: Entries, ahead: Ahead, users: Sequence[int]) -> Table:
    """Which engine of each pair has the higher throughput, by the exercise's rule `ahead`."""
    found = rounds(entries, "output_tok_s")
    there = [name for name in ENGINES if all((name, n) in found for n in users)]

    def winner(one: str, other: str, n: int) -> str:
        titles = {"a": ENGINES[one].title, "b": ENGINES[other].title, None: "no winner"}
        return titles[ahead(found[one, n], found[other, n])]

    rows = [
        (f"{ENGINES[one].title} or {ENGINES[other].title}", *(winner(one, other, n) for n in users))
        for one, other in combinations(there, 2)
    ]
    cells = [cell for row in rows for cell in row[1:]]
    title = f"Higher throughput: {cells.count('no winner')} of {len(cells)} comparisons have no winner"
    return Table(title, ("", *map(users_text, users)), rows)


def lie_table(lie: Mapping[str, Any]) -> Table:
    """One experiment of section 8: the figure as reported, the right one, and the reason."""
    row = (f"{lie['wrong']} {lie['unit']}", f"{lie['right']} {lie['unit']}", lie["why"])
    return Table(lie["trap"], ("reported", "true", "why"), [row])

"""The report's section on what fewer bits buy, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.metrics.spread import Spread, number
from shared.report.page import Section
from shared.report.plots import Plot, bars
from shared.report.table import Table
from shared.results import query
from shared.results.reading import Entries


def precision_section(entries: Entries) -> Section | None:
    """What fewer bits buy on llama.cpp, and what they cost."""
    table = precision_table(entries)
    if not table.rows:
        return None
    text = (
        "Decoding reads every weight for each token, so fewer bytes buy speed as far as reading is what costs: the "
        "prediction shortens only that part of the step. Prefill computes: where it changes, the arithmetic on these "
        "weights is another, not the reading. The price is in the last two columns.\n\n" + table.markdown()
    )
    return Section("What precision buys", text, (precision_plot(entries),))


def qualities(entries: Entries) -> dict[str, Mapping[str, Any]]:
    found = {key.removeprefix("quality/"): e["values"] for key, e in entries.items() if key.startswith("quality/")}
    return {form: values for form, values in found.items() if "predicted_tok_s" in values}


def precision_table(entries: Entries) -> Table:
    decode, prefill = decode_rates(entries), precision_rounds(entries, "tokens", "ttft_ms")
    rows = [
        (
            form,
            number(v["bytes"] / 1e6),
            number(v["predicted_tok_s"]),
            str(Spread.of(decode.get(form, [])) or "–"),
            str(Spread.of(prefill.get(form, [])) or "–"),
            f"{v['perplexity']:.2f}" if v.get("perplexity") else "–",
            f"{v['mean_gap_nats']:.4f}" if "mean_gap_nats" in v else "–",
        )
        for form, v in qualities(entries).items()
    ]
    header = (
        "weights", "MB", "predicted, tok/s", "measured, one user, tok/s", "TTFT of 512 tokens, ms", "perplexity",
        "mean greedy gap, nats",
    )  # fmt: skip
    return Table("Precision: what it buys and what it costs", header, rows)


def precision_plot(entries: Entries) -> Plot:
    decode = decode_rates(entries)
    shown = {
        form: {"predicted": v["predicted_tok_s"], "measured": median(decode.get(form))}
        for form, v in qualities(entries).items()
    }
    return bars("Decode speed of one user by precision", "tok/s", shown)


def decode_rates(entries: Entries) -> dict[str, list[float]]:
    """Tokens a second of one user once the answer flows, as the prediction has it: prompt and waiting left out."""
    return {form: [1e3 / ms for ms in times] for form, times in precision_rounds(entries, "users-1", "tpot_ms").items()}


def precision_rounds(entries: Entries, what: str, value: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for key, entry in entries.items():
        words = key.split("/")
        if words[0] == "precision" and words[2].startswith(what) and entry["values"].get(value) is not None:
            found.setdefault(words[1], []).append(query.figure_value(entry["values"][value]))
    return found


def median(values: Sequence[float] | None) -> float | None:
    spread = Spread.of(values or [])
    return spread.median if spread else None

"""What fewer bits buy on llama.cpp and what they cost: the notebook's table and figures, and the report's section."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.course.benchmark.limits import FITS
from shared.metrics.spread import Spread, number
from shared.models.choice import ModelChoice
from shared.report.page import Section
from shared.report.plots import Plot, bars
from shared.report.table import Table
from shared.results import query
from shared.results.reading import Entries

START = "BF16"  # predictions for the other forms start from its measured step
PREDICTED = "prediction/precision"  # the result that holds them
NOT_FIXED = "fixed-cost/llamacpp"  # the result that compares the fit's unexplained time with the steps of fewer bits

NotFixedMs = Callable[[float, Sequence[tuple[float, int]], float], float]


def precision_section(entries: Entries) -> Section | None:
    """The section on numeric precision; None if no form was measured."""
    table = precision_table(entries)
    if not table.rows:
        return None
    lines = off_by(entries)
    if proven := entries.get(NOT_FIXED):
        lines.append(f"{unexplained(proven['values'])}.")
    text = (
        "A decode step reads every weight, so fewer bytes make it shorter. The prediction starts from the measured "
        "BF16 step and subtracts the time for the saved bytes. Prefill computes, so saved bytes alone don't change it. "
        "Perplexity and greedy gap show the cost.\n\n"
        + table.markdown()
        + "".join(f"\n{'' if n else chr(10)}- {line}" for n, line in enumerate(lines))
    )
    return Section("What precision buys", text, (precision_plot(entries),))


def qualities(entries: Entries) -> dict[str, Mapping[str, Any]]:
    """By form: what its quality check recorded."""
    found = {key.removeprefix("quality/"): e["values"] for key, e in entries.items() if key.startswith("quality/")}
    return {form: values for form, values in found.items() if "bytes" in values}


def predict(entries: Entries, model: ModelChoice, bandwidth_gb_s: float) -> dict[str, float]:
    """Predicted decode tok/s of one user for each measured form but BF16, if only the reading gets shorter.

    It starts from BF16's step in the same series, and subtracts the time for the saved bytes. A form that saves more
    than the whole step has no prediction: an engine that reads so much faster than the measured bandwidth refutes it.
    """
    tok_s = median(decode_rates(entries).get(START))
    if tok_s is None:
        return {}
    step_ms = 1e3 / tok_s
    before = model.decode_bytes(START)
    left_ms = {
        form: step_ms - (before - model.decode_bytes(form)) / (bandwidth_gb_s * 1e6)
        for form in qualities(entries)
        if form != START
    }
    return {form: 1e3 / ms for form, ms in left_ms.items() if ms > 0}


def predicted(entries: Entries) -> Mapping[str, float]:
    """The recorded predictions by form; empty if there are none."""
    found: Mapping[str, float] = entries.get(PREDICTED, {"values": {}})["values"]
    return found


def precision_table(entries: Entries) -> Table:
    decode, prefill = decode_rates(entries), precision_rounds(entries, "tokens", "ttft_ms")
    guess = predicted(entries)
    rows = [
        (
            form,
            number(v["bytes"] / 1e6),
            number(guess[form]) if form in guess else "–",
            str(Spread.of(decode.get(form, [])) or "–"),
            str(Spread.of(prefill.get(form, [])) or "–"),
            f"{v['perplexity']:.2f}" if v.get("perplexity") else "–",
            f"{v['mean_gap_nats']:.4f}" if "mean_gap_nats" in v else "–",
        )
        for form, v in qualities(entries).items()
    ]
    header = (
        "weights", "read per step, MB", "predicted from BF16, tok/s", "measured, one user, tok/s",
        "TTFT of 512 tokens, ms", "perplexity", "mean greedy gap, nats",
    )  # fmt: skip
    return Table("Fewer bits: decode speed, prefill time and the cost in quality", header, rows)


def precision_plot(entries: Entries) -> Plot:
    decode, guess = decode_rates(entries), predicted(entries)
    shown = {
        form: {"predicted from BF16": guess.get(form), "measured": median(decode.get(form))}
        for form in qualities(entries)
    }
    return bars("Decode speed of one user by precision", "tok/s", shown)


def off_by(entries: Entries) -> list[str]:
    """By how much each prediction differs from its measurement, and in which direction, a sentence each."""
    decode, lines = decode_rates(entries), []
    for form, guess in predicted(entries).items():
        if (found := median(decode.get(form))) is None:
            continue
        share = found / guess - 1
        if abs(share) <= 0.05:
            lines.append(f"{form}: measured {number(found)} tok/s, within 5 % of the prediction of {number(guess)}.")
        else:
            how = "faster" if share > 0 else "slower"
            lines.append(
                f"{form}: measured {number(found)} tok/s, {100 * abs(share):.0f} % {how} than the prediction of "
                f"{number(guess)}."
            )
    return lines


def not_fixed(entries: Entries, bandwidth_gb_s: float, not_fixed_ms: NotFixedMs) -> dict[str, Any] | None:
    """For the ledger: how much of llama.cpp's unexplained time can't be a fixed cost; None without a fit or steps.

    `not_fixed_ms` is the exercise's function. The steps are those of one user in the series of forms.
    """
    fit = entries.get("fit/llamacpp", {"values": {}})["values"]
    read = {form: int(v["bytes"]) for form, v in qualities(entries).items()}
    steps = {form: 1e3 / tok_s for form, rates in decode_rates(entries).items() if (tok_s := median(rates))}
    steps = {form: ms for form, ms in steps.items() if form in read}
    if not steps or "overhead_ms" not in fit:
        return None
    left_ms = not_fixed_ms(fit["overhead_ms"], [(ms, read[form]) for form, ms in steps.items()], bandwidth_gb_s)
    return {
        "unexplained_ms": fit["overhead_ms"],
        "worst_residual": fit["worst_residual"],
        "not_fixed_ms": left_ms,
        "steps_ms": steps,
        "rest_ms": {form: ms - read[form] / (bandwidth_gb_s * 1e6) for form, ms in steps.items()},
    }


def fixed_cost_table(found: Mapping[str, Any]) -> Table:
    """Each form's step, and the part of it that reading at full bandwidth leaves; the title gives the verdict."""
    rows = [(form, number(ms), number(found["rest_ms"][form])) for form, ms in found["steps_ms"].items()]
    header = ("weights", "step, one user, ms", "left after reading, ms")
    return Table(unexplained(found), header, rows)


def unexplained(found: Mapping[str, Any]) -> str:
    """What the steps with fewer bits prove about the fit's unexplained time, in one sentence."""
    left_ms, all_ms = found["not_fixed_ms"], number(found["unexplained_ms"])
    if found.get("worst_residual", 0.0) > FITS:  # an older ledger has none
        return f"The step-time model does not explain llama.cpp here, so its {all_ms} unexplained ms mean little"
    if left_ms > 0:
        return f"Of the fit's {all_ms} unexplained ms, {number(left_ms)} ms can't be a fixed cost of llama.cpp"
    return f"The fit's {all_ms} unexplained ms fit into every step: nothing contradicts a fixed cost"


def decode_rates(entries: Entries) -> dict[str, list[float]]:
    """Decode tok/s of one user in each round (1000 / TPOT, so without the prompt), by form."""
    return {form: [1e3 / ms for ms in times] for form, times in precision_rounds(entries, "users-1", "tpot_ms").items()}


def precision_rounds(entries: Entries, what: str, value: str) -> dict[str, list[float]]:
    """One value per round of the series `precision/<form>/<what>…`, by form; the rival engine is among the forms."""
    found: dict[str, list[float]] = {}
    for key, entry in entries.items():
        words = key.split("/")
        if words[0] == "precision" and words[2].startswith(what) and entry["values"].get(value) is not None:
            found.setdefault(words[1], []).append(query.figure_value(entry["values"][value]))
    return found


def median(values: Sequence[float] | None) -> float | None:
    spread = Spread.of(values or [])
    return spread.median if spread else None

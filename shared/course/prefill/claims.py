"""Lab 3.3.3: the claims of its milestone, and the test of each claim on the results."""

from collections.abc import Mapping

from shared.course.evidence import Claim, Evidence
from shared.course.prefill import curve
from shared.metrics.correctness import GAP_LIMIT_NATS
from shared.results.reading import Entry

ENGINES = ("openvino", "aoti")
GAIN_AT_LEAST = 1.2
GAIN_AT, CLEAR_AT = 128, 512  # prompt tokens; in longer prompts the matrix products leave less to gain
FIT_WITHIN_PERCENT = 20.0


def missing(built: Mapping[str, Entry]) -> str:
    """Which of the two engines isn't among these results; "" if both are."""
    lacking = [name for name in ENGINES if f"build/{name}" not in built]
    return f"missing: {', '.join(lacking)}" if lacking else ""


def same_results(evidence: Evidence) -> tuple[bool, str]:
    built = evidence.of("build/")
    if lacking := missing(built):
        return False, lacking if built else ""
    texts = []
    for name in ENGINES:
        values = built[f"build/{name}"]["values"]
        if values["model_code"]:
            return False, f"{name} imported the model's code: {', '.join(values['model_code'])}"
        texts.append(
            f"{name}: {values['same_token']} of {values['prompts']} prompts have the same next token, "
            f"{values['right_token']} this one or one within {GAP_LIMIT_NATS} nats of the best (worst gap "
            f"{values['worst_gap_nats']:.2g}); largest difference of a logit "
            f"{values['max_difference']:.2g}"
        )
        if values["right_token"] < values["prompts"]:
            return False, "; ".join(texts)
    return True, "; ".join(texts)


def fused(evidence: Evidence) -> tuple[bool, str]:
    built = evidence.of("build/")
    if lacking := missing(built):
        return False, lacking if built else ""
    counts = {
        name: (built[f"build/{name}"]["values"]["operators"], built[f"build/{name}"]["values"]["kernels"])
        for name in ENGINES
    }
    text = "; ".join(f"{name}: {before} operators became {after} kernels" for name, (before, after) in counts.items())
    return all(after < before for before, after in counts.values()), text


def faster(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("curve").get("curve")
    if entry is None:
        return False, ""
    times = curve.restored(entry["values"]["ms"])
    engines = [name for name in times if name.startswith(ENGINES)]
    best = [curve.best(times, engines, "eager", n) for n in (GAIN_AT, CLEAR_AT)]
    text = ", ".join(f"{name} {gain} at {gain.tokens} tokens" for name, gain in best)
    short, long = (gain for _, gain in best)
    enough = short.times >= GAIN_AT_LEAST and short.clear and long.times > 1 and long.clear
    return evidence.judged(enough, f"against eager: {text}")


def predicted(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("fit").get("fit")
    if entry is None:
        return False, ""
    errors = entry["values"]["errors_percent"]
    text = "error at lengths that the fit has not seen: " + ", ".join(
        f"{median:+.0f} % ({low:+.0f} to {high:+.0f}) at {n} tokens" for n, (median, low, high) in errors.items()
    )
    waited = entry["values"]["queued"]
    median, low, high = waited["error_percent"]
    text += f", and {median:+.0f} % ({low:+.0f} to {high:+.0f}) where {waited['requests']} requests waited in a queue"
    medians = [median, *(one for one, _, _ in errors.values())]
    return evidence.judged(all(abs(one) <= FIT_WITHIN_PERCENT for one in medians), text)


def int8(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("precision").get("precision")
    if entry is None:
        return False, ""
    values = entry["values"]
    gain = curve.against(curve.restored(values["ms"]), "int8", "float", values["tokens"])
    wide, small = values["quality"]["float"], values["quality"]["int8"]
    text = (
        f"INT8 against float: {gain} at {gain.tokens} tokens, perplexity {small['perplexity']:.1f} instead of "
        f"{wide['perplexity']:.1f}, mean greedy gap {small['mean_gap_nats']:.3f} instead of "
        f"{wide['mean_gap_nats']:.3f} nats"
    )
    return True, text


def chosen(evidence: Evidence) -> tuple[bool, str]:
    entries = evidence.of("mix/")
    if not entries:
        return False, ""
    texts, good = [], False
    for key, entry in entries.items():
        ms = entry["values"]["ms"]
        if not {"yours", "eager"} <= ms.keys():
            continue
        times = {name: {0: rounds} for name, rounds in ms.items()}
        gain = curve.against(times, "yours", "eager", 0)
        texts.append(f"{key.removeprefix('mix/').replace('/', ' on ')}: {gain} against eager")
        good |= gain.times >= GAIN_AT_LEAST and gain.clear
    return evidence.judged(good, "; ".join(texts)) if texts else (False, "no mix was timed with your engines")


CLAIMS = (
    Claim(
        "Engines loaded without the model's code predict what eager torch predicts",
        same_results,
        {"build/": "build-engines"},
    ),
    Claim("Both optimizers turned the graph's operators into fewer kernels", fused, {"build/": "build-engines"}),
    Claim(
        f"An engine is at least {GAIN_AT_LEAST} times as fast as eager at {GAIN_AT} tokens, "
        f"and one is faster at {CLEAR_AT}",
        faster,
        {"curve": "measure-curve"},
    ),
    Claim(
        "TTFT can be predicted for lengths that were not measured, without and with a queue",
        predicted,
        {"fit": "fit-ttft"},
        ("ttft_parts",),
    ),
    Claim("What INT8 gains in speed and costs in text is measured", int8, {"precision": "measure-eight-bits"}),
    Claim(
        f"The engines chosen for a mix of prompts are at least {GAIN_AT_LEAST} times as fast as eager on it",
        chosen,
        {"mix/": "open-task"},
        ("choose_buckets",),
    ),
)

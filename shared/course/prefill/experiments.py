"""What lab 3.3.3 measures, as functions that return the values of a ledger entry."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from shared.course.prefill import arithmetic, curve, mix, quality
from shared.course.prefill.ahead_of_time import making
from shared.course.prefill.ahead_of_time.build import Engine
from shared.course.prefill.ahead_of_time.loaded import Runner
from shared.course.prefill.kit import CHECKED_PROMPTS, Kit
from shared.metrics.roofline import Ceilings
from shared.metrics.spread import interval
from shared.models.llamacpp_library import TEXT

QUALITY = {"quick": (1, 48, 3, 8), "full": (4, 80, 12, 24)}  # texts, their tokens, prompts, tokens of an answer


def built(kit: Kit, engine: Engine) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build time, size and load time of an engine, whether it needs the model's code, and its agreement with eager.

    The reference computes in float32. The raw data holds the counts of operators and kernels.
    """
    with kit.load(engine) as run:
        agreed = making.agreement(run, kit.torch("float32"), kit.chats(CHECKED_PROMPTS))
        values = {
            "build_s": sum(engine.build_s.values()),
            "size_mb": engine.bytes / 1e6,
            "load_s": run.load_s,
            "model_code": run.model_code,
            "operators": sum(engine.fusion["before"].values()),
            "kernels": sum(engine.fusion["after"].values()),
            **agreed.values(),
        }
    return values, {"stages_s": engine.build_s, "fusion": engine.fusion}


def prefill_curve(kit: Kit, runners: Mapping[str, Runner]) -> dict[str, Any]:
    """The curve of these runners, in ms by runner, length and round."""
    size = kit.machine.size
    lengths = [n for n in (curve.FULL if size == "full" else curve.QUICK) if n <= kit.llama().context]
    vocabulary = kit.llama().embedding.shape[0]
    return {"ms": curve.values(curve.measure(runners, lengths, curve.ROUNDS[size], vocabulary))}


def precision_cost(kit: Kit, run: Runner, speed_tokens: int = 128) -> dict[str, Any]:
    """Perplexity and greedy gap of an engine, and its prefill time at one length in ms with its interval."""
    texts, length, prompts, answer = QUALITY[kit.machine.size]
    ids = kit.llama().tokenizer.encode(TEXT.read_text(), add_special_tokens=False)
    chunks = [ids[i * length : (i + 1) * length] for i in range(texts)]
    found = quality.quality(run, kit.torch("float32"), chunks, kit.chats(prompts), answer)
    rounds = curve.ROUNDS[kit.machine.size]
    prompt = curve.random_ids(speed_tokens, kit.llama().embedding.shape[0], seed=7)
    run(prompt)
    took = interval([1e3 * one for one in run.time_s(prompt, rounds)])
    assert took
    return {**found.values(), "tokens": speed_tokens, "ms": took.median, "ms_low": took.low, "ms_high": took.high}


def mix_times(kit: Kit, name: str, ways: Mapping[str, Mapping[int, Runner]]) -> dict[str, Any]:
    """The rounds of a mix by way, in ms, and the share of padding of each."""
    lengths = mix.MIXES[name]
    rounds = curve.ROUNDS[kit.machine.size]
    return {
        "ms": mix.rounds_ms(lengths, ways, rounds, kit.llama().embedding.shape[0]),
        "padding": {way: mix.padded_share(lengths, engines) for way, engines in ways.items()},
    }


def fit_of(times: Mapping[int, Sequence[float]], fit: curve.Fit) -> dict[str, Any]:
    """How far a fit is off at lengths that it has not seen, in percent, with intervals."""
    errors = fit.errors_percent(times)
    return {
        "errors_percent": {str(n): [one.median, one.low, one.high] for n, one in errors.items()},
        "fixed_ms": fit.fixed_ms, "token_ms": fit.token_ms, "token2_ms": fit.token2_ms,
    }  # fmt: skip


def shares(shape: arithmetic.Shape, times: curve.Times, here: Ceilings) -> dict[str, dict[int, arithmetic.Achieved]]:
    """What each runner reached at each length, as a share of the peak of this machine."""
    return {
        name: {
            n: arithmetic.achieved(arithmetic.operations(shape, n), statistics.median(rounds) / 1e3, here.peak_tflop_s)
            for n, rounds in course.items()
        }
        for name, course in times.items()
    }

"""What lab 3.3.3 measures, as functions that return the values of a ledger entry."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shared.course.prefill import arithmetic, curve, mix, quality
from shared.course.prefill.ahead_of_time import making, parts
from shared.course.prefill.ahead_of_time.build import Engine
from shared.course.prefill.ahead_of_time.loaded import InTorch
from shared.course.prefill.ahead_of_time.prefill_model import PrefillModel
from shared.course.prefill.curve import Runner, Timed
from shared.course.prefill.kit import Kit
from shared.course.prefill.servers import OWN_CLOCK, Served
from shared.hardware.processor import torch_dtype
from shared.launch.running import Engine as Server
from shared.load.client import Trace
from shared.metrics.roofline import Ceilings
from shared.metrics.spread import interval
from shared.models.llama import Llama
from shared.models.llamacpp_library import TEXT

QUALITY = {"quick": (1, 48, 3, 8), "full": (4, 80, 6, 16)}  # texts, their tokens, prompts, tokens of an answer


def built(kit: Kit, engine: Engine) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build time, size and load time of an engine, whether it needs the model's code, and its agreement with eager.

    The reference computes in float32. The raw data holds the counts of operators and kernels.
    """
    prompts, expected = kit.checked
    with kit.load(engine) as run:
        agreed = making.agreement(run, prompts, expected)
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


def prefill_curve(kit: Kit, engines: Mapping[str, Engine]) -> dict[str, Any]:
    """The curve of torch, eager and compiled, and of these engines, in ms by runner, length and round."""
    torch_here = {"eager": kit.torch(kit.dtype), "torch.compile": kit.torch(kit.dtype, compiled=True)}
    with kit.loaded(engines) as loaded:
        return {"ms": curve.values(_measured(kit, {**torch_here, **loaded}, curve.ROUNDS[kit.machine.size]))}


def _measured(kit: Kit, runners: Mapping[str, Timed], rounds: int) -> curve.Times:
    lengths = curve.FULL if kit.machine.size == "full" else curve.QUICK
    vocabulary = kit.llama().embedding.shape[0]
    return curve.measure(runners, [n for n in lengths if n <= kit.llama().context], rounds, vocabulary)


def server_curve(kit: Kit, server: Server) -> dict[str, Any]:
    """The curve of a running server by the client's clock and by its own, in ms, and the name of its model.

    It has rounds of its own: threads of an idle neighbour that wait in a loop would take its processor time.
    """
    name, served = server.spec.name, Served(server)
    times = _measured(kit, {name: served}, curve.SERVER_ROUNDS[kit.machine.size])
    own = {n: ms[-len(times[name][n]) :] for n, ms in served.own_ms.items()}  # without the first, unmeasured one
    return {"model": server.model.name, "ms": curve.values({**times, **({name + OWN_CLOCK: own} if own else {})})}


def time_by_part(kit: Kit, engine: Engine, lengths: Sequence[int]) -> dict[str, Any]:
    """ms by part of a prefill on the processor, by runner and length: eager torch and an OpenVINO engine."""
    prompts = {n: curve.random_ids(n, kit.llama().embedding.shape[0], seed=3) for n in lengths}
    precision = engine.manifest["made_of"]["recipe"]["precision"]
    eager = InTorch(PrefillModel(kit.llama(precision)).eval(), kit.machine.cores)
    found: dict[str, Any] = {"eager": {}, "openvino": {}}
    for n, ids in prompts.items():
        found["eager"][str(n)] = parts.of_eager(eager, ids)
        with kit.load(engine, profile=True) as run:
            found["openvino"][str(n)] = parts.of_openvino(run, ids)
    return found


class Batch:
    """Several prompts of one length in one pass of the reference model, eager on the processor."""

    def __init__(self, llama: Llama, prompts: int) -> None:
        self.llama, self.prompts = llama, prompts

    def time_s(self, ids: Sequence[int], repeats: int = 1) -> list[float]:
        rows = torch.tensor([ids] * self.prompts)
        took_s = []
        for _ in range(repeats):
            cache = self.llama.new_cache(self.prompts, len(ids))
            start = time.perf_counter()
            self.llama.forward(rows, cache)
            took_s.append(time.perf_counter() - start)
        return took_s


BATCHES, BATCH_LENGTHS = (1, 2, 4), (32, 256)


def batched(kit: Kit) -> dict[str, Any]:
    """ms of one pass over 1, 2 and 4 prompts of the same length, by number of prompts, length and round."""
    llama = kit.llama(torch_dtype())
    batches = {str(prompts): Batch(llama, prompts) for prompts in BATCHES}
    rounds = curve.ROUNDS[kit.machine.size]
    return {"ms": curve.values(curve.measure(batches, BATCH_LENGTHS, rounds, llama.embedding.shape[0]))}


CHUNKS = (64, 128, 512)  # tokens, of llama.cpp's -ub
CHUNK_ROUNDS = {"quick": 1, "full": 3}  # starts with each of them, in turn
CHUNKED_PROMPTS = {"quick": 2, "full": 5}  # after each start
CHUNKED_PROMPT = 512  # tokens


def chunked(kit: Kit, server: Server) -> dict[str, Any]:
    """ms of CHUNKED_PROMPTS prompts of CHUNKED_PROMPT tokens by the client's clock; each prompt is another one."""
    served, vocabulary = Served(server), kit.llama().embedding.shape[0]
    rounds = curve.measure({"it": served}, (CHUNKED_PROMPT,), CHUNKED_PROMPTS[kit.machine.size], vocabulary)
    return {"ms": rounds["it"][CHUNKED_PROMPT]}


TTFT_ROUNDS = {"quick": 3, "full": 5}  # one user, each length once
QUEUED = {"quick": 6, "full": 12}  # requests of three users who share a seat


def precision_cost(kit: Kit, engines: Mapping[str, Engine], tokens: int = 128) -> dict[str, Any]:
    """Perplexity and greedy gap of each engine, and the ms of a prefill of `tokens` tokens by engine and round.

    The engines compute in turn, and the rounds are spread over the minutes that the texts take: a machine can be slow
    for a quarter of a minute, and that slows INT8 and other formats down by different factors.
    """
    texts, length, prompts, answer = QUALITY[kit.machine.size]
    ids = kit.llama().tokenizer.encode(TEXT.read_text(), add_special_tokens=False)
    chunks = [ids[i * length : (i + 1) * length] for i in range(texts)]
    vocabulary = kit.llama().embedding.shape[0]
    ms: dict[str, dict[int, list[float]]] = {name: {tokens: []} for name in engines}
    with kit.loaded(engines) as runners:

        def one_round() -> None:
            number = min(len(course[tokens]) for course in ms.values())
            for name, course in curve.measure(runners, (tokens,), 1, vocabulary, seed=number).items():
                ms[name][tokens] += course[tokens]

        found = quality.compared(runners, kit.torch("float32"), chunks, kit.chats(prompts), answer, one_round)
    return {"tokens": tokens, "ms": curve.values(ms), "quality": {name: one.values() for name, one in found.items()}}


def mix_times(kit: Kit, name: str, ways: Mapping[str, Mapping[int, Engine]]) -> dict[str, Any]:
    """The rounds of a mix in ms, and the share of padding: in eager torch, and on each of these sets of engines.

    A set has its engines by their length, mix.ANY for any length.
    """
    lengths, rounds = mix.MIXES[name], mix.ROUNDS[kit.machine.size]
    engines = {f"{way} {length}": engine for way, ones in ways.items() for length, engine in ones.items()}
    with kit.loaded(engines) as loaded:
        runners: dict[str, Mapping[int, Runner]] = {"eager": {mix.ANY: kit.torch(kit.dtype)}}
        runners |= {way: {length: loaded[f"{way} {length}"] for length in ones} for way, ones in ways.items()}
        return {
            "ms": mix.rounds_ms(lengths, runners, rounds, kit.llama().embedding.shape[0]),
            "padding": {way: mix.padded_share(lengths, ones) for way, ones in runners.items()},
        }


def fit_of(times: Mapping[int, Sequence[float]], fit: curve.Fit) -> dict[str, Any]:
    """How far a fit is off at lengths that it has not seen, in percent, with intervals."""
    errors = fit.errors_percent(times)
    return {
        "errors_percent": {str(n): [one.median, one.low, one.high] for n, one in errors.items()},
        "fixed_ms": fit.fixed_ms, "token_ms": fit.token_ms, "token2_ms": fit.token2_ms,
    }  # fmt: skip


def queue_ms(traces: Sequence[Trace]) -> list[float]:
    """How long each request waited in the queue of a server with one seat, in ms, in the order of their answers.

    The server takes the next request when an answer has ended. So a request waited from when it was sent until the
    answer before it ended, or not at all.
    """
    served = sorted(traces, key=lambda trace: trace.end_ns)
    before = [served[0].sent_ns, *(trace.end_ns for trace in served[:-1])]
    return [max(0, free_ns - trace.sent_ns) / 1e6 for trace, free_ns in zip(served, before, strict=True)]


def queued(traces: Sequence[Trace], tokens: int, fit: curve.Fit) -> dict[str, Any]:
    """How far queue + fit is from the TTFT of requests that waited, in percent with its interval."""
    served = sorted((trace for trace in traces if trace.ttft_ms), key=lambda trace: trace.end_ns)
    waits = queue_ms(served)
    ttft = [float(trace.ttft_ms or 0) for trace in served]
    waited = [(wait, ms) for wait, ms in zip(waits, ttft, strict=True) if wait]
    found = interval([100 * ((wait + fit.ms(tokens)) / ms - 1) for wait, ms in waited])
    assert found
    return {
        "tokens": tokens, "requests": len(waited), "queue_ms": statistics.median(wait for wait, _ in waited),
        "ttft_ms": statistics.median(ms for _, ms in waited), "error_percent": [found.median, found.low, found.high],
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

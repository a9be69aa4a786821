"""Lab 3.3.2's loads of vLLM on a quiet machine, as its notebook recorded them: two cores, SmolLM2-135M, the full size.

Medians of the rounds. The requests around them are invented: a fifth of them are 10 % slower, a fifth 10 % faster.
"""

from collections.abc import Iterable
from dataclasses import replace

from shared import metrics, results
from shared.load import Run
from tests.helpers.ledger import provenance, trace

BANDWIDTH_GB_S = 33.7
PROMPT, ANSWER = 46, 32  # tokens
TTFT_MS = {1: 66.8, 4: 181.8, 8: 311.2, 16: 568.2, 32: 1090.8, 64: 2046.1}  # by users
TPOT_MS = {1: 25.8, 4: 27.2, 8: 31.2, 16: 39.5, 32: 53.1, 64: 57.9}
TOK_S = {1: 36.5, 4: 121.1, 8: 199.3, 16: 285.9, 32: 371.8, 64: 357.5}
OPEN = {50: (78, 100.0, 37.4), 80: (119, 112.0, 49.2), 150: (244, 4378.0, 103.0)}  # percent: requests, TTFT, TPOT
OPEN_S = 15.0
FLAGS = {"--max-num-seqs": 32, "--max-model-len": 2048}
SPREAD = (0.9, 1.0, 1.0, 1.0, 1.1)


def record_loads(users: Iterable[int] = TTFT_MS, lab: str = "3.3.2", engine: str = "vllm") -> None:
    for count in users:
        for number in (1, 2):
            scale = [SPREAD[i % len(SPREAD)] for i in range(max(5, count))]
            traces = [trace(TTFT_MS[count] * s, TPOT_MS[count] * s, ANSWER, prompt=PROMPT) for s in scale]
            source = {**provenance(engine), "runner": "native", "flags": FLAGS, "dtype": "bfloat16"}
            source["model"] = "smollm2-135m-instruct"
            summary = metrics.summarise(Run(tuple(traces), count, ANSWER, "short", source, 0.01))
            summary = replace(summary, output_tok_s=TOK_S[count])  # the invented requests have another one
            results.record(lab, f"load/users-{count}/{engine}/round-{number}", summary)


def record_bandwidth() -> None:
    results.record("3.3.2", "predict/growth", {"bandwidth_gb_s": BANDWIDTH_GB_S, "dtype": "bfloat16"})


def record_open_loops() -> None:
    for percent, (requests, ttft_ms, tpot_ms) in OPEN.items():
        one = trace(ttft_ms, tpot_ms, ANSWER, prompt=PROMPT)
        traces = tuple(replace(one, scheduled_ns=one.sent_ns) for _ in range(requests))
        source = {**provenance("vllm"), "runner": "native", "flags": FLAGS, "dtype": "bfloat16"}
        load = {"kind": "poisson", "seconds": OPEN_S, "rate_per_s": requests / OPEN_S}
        run = Run(traces, 1, ANSWER, "short", {**source, "model": "smollm2-135m-instruct"}, 0.01, load=load)
        results.record("3.3.2", f"open/percent-{percent}", metrics.summarise(run))

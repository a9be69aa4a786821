"""Our client and vLLM's own benchmark client, one after the other, against the same truth server.

    make bench

The truth server sends a role, then tokens on a schedule, and records when. Both clients send the same number of
requests, from 1 and from 16 users. Each figure follows vLLM's convention (shared.metrics.conventions), the only one of
its client, and is compared with the server's record. Our client's figures also follow the labs' own convention, because
the two conventions differ.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared import load, models, paths
from shared.hardware import detect
from shared.load import Closed, Load, Trace, prompts
from shared.metrics import summarise
from shared.metrics.conventions import vllm_tpot_ms, vllm_ttft_ms
from tests.helpers.truth import MODEL, TruthEngine

TOKENS = 64
PLAN: dict[str, object] = {"ttft_s": 0.1, "gap_s": 0.02}
# The console script `vllm` looks for a distribution of that name; the build for processors has another.
VLLM = (
    "import argparse, asyncio\nfrom vllm.benchmarks.serve import add_cli_args, main_async\n"
    "p = argparse.ArgumentParser()\nadd_cli_args(p)\nasyncio.run(main_async(p.parse_args()))"
)


def theirs(engine: TruthEngine, users: int, requests: int) -> dict[str, Any]:
    """The figures of vLLM's client, as it stores them."""
    python = paths.cache() / "engines" / "vllm" / "venv" / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                str(python),
                "-c",
                VLLM,
                "--backend",
                "openai-chat",
                "--endpoint",
                "/v1/chat/completions",
                "--base-url",
                engine.url,
                "--model",
                MODEL.name,
                "--tokenizer",
                str(models.small().weights("hf")),
                "--dataset-name",
                "random",
                "--random-input-len",
                "20",
                "--random-output-len",
                str(TOKENS),
                "--num-prompts",
                str(requests),
                "--max-concurrency",
                str(users),
                "--ready-check-timeout-sec",
                "0",
                "--extra-body",
                json.dumps({"truth": PLAN}),
                "--save-result",
                "--result-dir",
                folder,
                "--result-filename",
                "result.json",
                "--percentile-metrics",
                "ttft,tpot,itl,e2el",
            ],
            check=True,
            stdout=sys.stderr,
            stderr=subprocess.DEVNULL,
        )
        found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
        return found


def truths(records: Sequence[dict[str, Any]], requests: int) -> tuple[float, float]:
    """Median TTFT and TPOT of text chunks in the last answers, by the server's record, in ms."""
    whole = [r for r in records if sum(chunks for _, chunks in r["sends"]) == TOKENS]  # without warm-up and probe
    sends = [[ns for ns, chunks in r["sends"] for _ in range(chunks)] for r in whole[-requests:]]
    first = [(sent[0] - r["received_ns"]) / 1e6 for sent, r in zip(sends, whole[-requests:], strict=True)]
    between = [(sent[-1] - sent[0]) / 1e6 / (len(sent) - 1) for sent in sends]
    return statistics.median(first), statistics.median(between)


def median(figure: Callable[[Trace], float | None], traces: Sequence[Trace]) -> float:
    return statistics.median(value for t in traces if (value := figure(t)) is not None)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    machine = detect()
    rows = []
    for users, requests in ((1, 8), (16, 64)):
        with tempfile.TemporaryDirectory() as folder, TruthEngine.start(Path(folder) / "log") as engine:
            engine.plan(**PLAN)
            run = load.run(
                Load(engine, prompts.short(MODEL), Closed(users=users, requests=requests), max_tokens=TOKENS)
            )
            ttft, tpot = truths(engine.records(), requests)
            ours = summarise(run)
            before = len(engine.records())
            said = theirs(engine, users, requests)
            their_ttft, their_tpot = truths(engine.records()[before:], requests)
        rows += [
            (users, "TTFT, ms, first text", ttft, median(lambda t: t.ttft_ms, run.traces), their_ttft, None),
            (
                users,
                "TTFT, ms, vLLM's: first chunk",
                None,
                median(vllm_ttft_ms, run.traces),
                None,
                said["median_ttft_ms"],
            ),
            (users, "TPOT, ms, between texts", tpot, median(lambda t: t.tpot_ms, run.traces), their_tpot, None),
            (
                users,
                "TPOT, ms, vLLM's: to the last chunk",
                None,
                median(vllm_tpot_ms, run.traces),
                None,
                said["median_tpot_ms"],
            ),
            (users, "output, tok/s", None, ours.output_tok_s, None, said["output_throughput"]),
        ]
    print(f"{machine.processor}, {machine.cores} cores shared by the server and one client at a time")
    heads = ("users", "figure", "truth", "ours", "truth", "vLLM's client")
    print("{:>5}  {:<36}{:>10}{:>10}{:>12}{:>14}".format(*heads))
    for users, title, *values in rows:
        cells = ["" if v is None else f"{v:.2f}" for v in values]
        print("{:>5}  {:<36}{:>10}{:>10}{:>12}{:>14}".format(users, title, *cells))


if __name__ == "__main__":
    main()

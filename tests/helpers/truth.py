"""The truth server as the labs see an engine, and the records that traces are compared with."""

import dataclasses
import json
import re
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.engines import ENGINES
from shared.launch.memory import Need
from shared.launch.process import Guarded
from shared.launch.running import Engine
from shared.load import Trace
from shared.models import ModelChoice

COMMAND = [sys.executable, str(Path(__file__).with_name("truth_server.py"))]
SPEC = dataclasses.replace(ENGINES["vllm"], name="truth", title="The truth server", counters={}, exact_length={})
NO_FILES = Path("/nonexistent")
MODEL = ModelChoice("truth", NO_FILES, NO_FILES, "You are exact.", 0, 0, 0, 0, 0, "invented")


class TruthEngine(Engine):
    """A real Engine with a real process; only its model has no files."""

    @classmethod
    def start(cls, log: Path, core: int | None = None) -> "TruthEngine":
        """`core`: the one that it has for itself."""
        command = COMMAND if core is None else [*COMMAND, str(core)]
        with log.open("wb") as out:
            process = Guarded(command, out)
        engine = cls(SPEC, MODEL, "BF16", {}, 1, "1", command, 0, log, process, Need("The truth", 0, 0, 0, 0))
        deadline = time.monotonic() + 20
        while not (said := re.search(r"listening on (\d+)\n", log.read_text())):
            if not engine.alive or time.monotonic() > deadline:
                engine.stop()
                raise RuntimeError(f"the truth server did not start: {log.read_text()}")
            time.sleep(0.02)
        engine.port = int(said[1])
        return engine

    def plan(self, **truth: object) -> None:
        """What the next load's requests ask for: shared.load.loops sends `exact_length` with each of them."""
        self.spec = dataclasses.replace(SPEC, exact_length={"truth": truth})

    def records(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(self.url + "/record", timeout=20) as said:
            found: list[dict[str, Any]] = json.load(said)
        return found

    def provenance(self) -> dict[str, Any]:
        return {"engine": "truth"}


@dataclasses.dataclass(frozen=True)
class Errors:
    """How far a trace is from the server's record, in ms. Both contain one trip through the kernel."""

    ttft_ms: float
    arrivals_ms: list[float]


def judge(trace: Trace, records: Sequence[dict[str, Any]]) -> Errors:
    """Compare with the record that the trace's first token names."""
    number = re.match(r"#(\d+)", trace.reasoning + trace.text)
    assert number, f"a trace without its number: {trace}"
    record = records[int(number[1]) - 1]
    sent = [ns for ns, chunks in record["sends"] for _ in range(chunks)]
    assert len(sent) == len(trace.chunks_ns), "chunks were lost"
    assert trace.ttft_ms is not None
    return Errors(
        trace.ttft_ms - (sent[0] - record["received_ns"]) / 1e6,
        [(ours - true) / 1e6 for ours, true in zip(trace.chunks_ns, sent, strict=True)],
    )

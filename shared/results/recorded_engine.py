"""One engine as the ledger recorded it: what the capacity calculator (metrics/capacity.py) needs of its loads.

    recorded = recorded_engine.read("vllm", model)       # from lab 3.3.2, or else from lab 3.3.1
    recorded.engine(share=0.9)                           # fitted to every number of users that was measured
    recorded.engine(share=0.9, without=8)                # ... but this one, to test the fit there

Loads with more users than seats are left out, because some of their requests stand in a queue.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from shared.engines import ENGINES
from shared.errors import LabError
from shared.hardware.processor import BYTES_PER_VALUE
from shared.load.client import Trace
from shared.metrics import roofline
from shared.metrics.capacity import CarryingEngine, fit_prompts
from shared.metrics.summary import Slo
from shared.models.choice import ModelChoice
from shared.results import step_time
from shared.results.ledger import load_raw, load_results
from shared.results.query import figure_value, rounds
from shared.results.reading import Entries, Entry

LOADS_IN = {"3.3.2": "run-load", "3.3.1": "run-load"}  # the cell of each lab that measures loads; the first one counts
BANDWIDTH_IN = {"3.3.2": ("predict/growth", "predict-growth"), "3.3.1": ("predict/limits", "predict-limits")}
SEATS = {
    "vllm": "--max-num-seqs",
    "sglang": "--max-running-requests",
    "llamacpp": "-np",
    "ollama": "OLLAMA_NUM_PARALLEL",
    "trtllm": "--max_batch_size",
}
OPEN_LOOPS = ("open/", "capacity/")  # lab 3.3.2's loads of requests at random moments
USERS_AT_LEAST = 4  # different numbers of users, for the fit of a step
ALIKE = ("host", "processor", "model_sha256", "precision", "dtype", "cores", "runner")  # two labs' results, to be mixed


@dataclass(frozen=True)
class Recorded:
    """The recorded loads of one engine."""

    lab: str
    name: str  # of the engine
    model: ModelChoice
    loads: Entries
    prompts: Entries  # lab 3.3.1's loads of one user with longer prompts; empty if they aren't there
    open_loops: Entries  # lab 3.3.2's loads of requests at random moments; empty if they aren't there
    seats: int
    seats_source: str
    bandwidth_gb_s: float
    bandwidth_source: str

    @property
    def source(self) -> Entry:
        """The provenance of the first load."""
        return next(iter(self.loads.values()))["provenance"]  # type: ignore[no-any-return]

    @property
    def users(self) -> list[int]:
        """The numbers of users that were measured."""
        return sorted(by_users(self.loads, "tpot_ms"))

    @property
    def prompt_tokens(self) -> float:
        return figure_value(next(iter(self.loads.values()))["values"]["input_tokens"])

    @property
    def output_tokens(self) -> int:
        return int(self.source["max_tokens"])

    @property
    def keys(self) -> str:
        """Where the loads are, for a table."""
        return f"{self.lab}: load/users-{self.users[0]}…{self.users[-1]}/{self.name}"

    def engine(self, share: float, without: int | None = None) -> CarryingEngine:
        """The engine that the loads describe. `without`: a number of users whose loads are not used."""
        kept = {key: e for key, e in self.loads.items() if e["values"]["users"] != without}
        spreads = [self.spread(kept, users, share) for users in by_users(kept, "tpot_ms")]
        return CarryingEngine(
            model=self.model,
            precision=self.source["precision"],
            bytes_per_value=BYTES_PER_VALUE[self.source.get("dtype", "")],
            step=step_time.fitted(step_time.points(kept, self.name, self.model), self.bandwidth_gb_s),
            prompt=fit_prompts([*self.burst_points(kept), *self.prompt_points()]),
            tpot_spread=statistics.median(tpot for tpot, _ in spreads),
            ttft_spread=statistics.median(ttft for _, ttft in spreads),
            seats=self.seats,
            kv_bytes=self.kv_bytes(),
        )

    def kept(self, key: str, slo: Slo) -> float:
        """The share of a load's requests that kept the SLO."""
        kept = [slo.kept(Trace.restore(plain)) for plain in load_raw(self.lab, key)]
        return sum(kept) / len(kept)

    def kv_bytes(self) -> int:
        """The size of the KV cache by the recorded flags. Raises LabError if they don't set it."""
        spec = ENGINES[self.name]
        way = spec.way(self.source["runner"])
        if not (size := way.kv_bytes(self.model, self.source["flags"])):
            raise LabError(
                f"The recorded flags of {spec.title} don't set the size of its KV cache.",
                f"run the cell `{LOADS_IN[self.lab]}` of lab {self.lab} again",
            )
        return size

    def burst_points(self, loads: Entries) -> Iterator[tuple[float, float]]:
        """(prompt tokens of all users together, median TTFT in ms): in a closed loop all prompts come at once."""
        for users, ms in by_users(loads, "ttft_ms").items():
            yield users * self.prompt_tokens, ms

    def prompt_points(self) -> Iterator[tuple[float, float]]:
        """(prompt tokens, median TTFT in ms) of one user, from lab 3.3.1."""
        for (_, tokens), values in sorted(rounds(self.prompts, "ttft_ms", "prompt/", by="input_tokens").items()):
            yield tokens, statistics.median(values)

    def spread(self, loads: Entries, users: int, share: float) -> tuple[float, float]:
        """The TPOT and TTFT that this share of the requests kept, each divided by the median request's."""
        keys = [key for key, e in loads.items() if e["values"]["users"] == users]
        traces = [Trace.restore(plain) for key in keys for plain in load_raw(self.lab, key)]
        good = [trace for trace in traces if trace.error is None]
        tpot = [trace.tpot_ms for trace in good if trace.tpot_ms is not None]
        ttft = [trace.ttft_ms for trace in good if trace.ttft_ms is not None]
        return kept_by(tpot, share) / statistics.median(tpot), kept_by(ttft, share) / statistics.median(ttft)


def kept_by(values: list[float], share: float) -> float:
    """The smallest limit that this share of the values keeps (the nearest rank)."""
    return sorted(values)[math.ceil(round(share * len(values), 9)) - 1]


def by_users(loads: Entries, value: str) -> dict[int, float]:
    """Users → the median over the rounds."""
    return {users: statistics.median(found) for (_, users), found in sorted(rounds(loads, value).items())}


def read(name: str, model: ModelChoice) -> Recorded:
    """The recorded loads of this engine: of lab 3.3.2 if it has measured enough of them, else of lab 3.3.1.

    Raises LabError that names the cell and the lab if something was not measured, or was measured with another model.
    """
    if name not in ENGINES:
        raise LabError(f"There is no engine {name!r}.", f"choose one of {', '.join(ENGINES)}")
    found = {lab: load_results(lab, kind=None) for lab in LOADS_IN}
    usable = {lab: usable_loads(entries, name) for lab, entries in found.items()}
    lab = next((lab for lab in LOADS_IN if len(by_users(usable[lab], "tpot_ms")) >= USERS_AT_LEAST), None)
    if lab is None:
        seen = " and ".join(f"{len(by_users(loads, 'tpot_ms'))} in lab {lab}" for lab, loads in usable.items())
        cells = " or ".join(f"the cell `{cell}` of lab {lab}" for lab, cell in LOADS_IN.items())
        raise LabError(
            f"The ledger has loads of {ENGINES[name].title} at too few numbers of users: {seen}, but the step-time "
            f"model needs {USERS_AT_LEAST}.",
            f"run {cells}",
        )
    loads = usable[lab]
    source = next(iter(loads.values()))["provenance"]
    if source["model"] != model.name:
        raise LabError(
            f"Lab {lab} measured {source['model']}, but this machine's model is {model.name}.",
            f"run the cell `{LOADS_IN[lab]}` of lab {lab} again, or name the measured model in LABS_MODEL",
        )
    seats, seats_source = seats_of(name, loads)
    bandwidth_gb_s, bandwidth_source = bandwidth(lab, found[lab], source)
    prompts = {
        key: e
        for key, e in found["3.3.1"].items()
        if key.startswith("prompt/") and f"/{name}/" in key
        if all(e["provenance"].get(field) == source.get(field) for field in ALIKE)
    }
    open_loops = {
        key: e
        for key, e in found[lab].items()
        if key.startswith(OPEN_LOOPS) and e["provenance"].get("engine") == name
        if all(e["values"].get(figure) for figure in ("tpot_ms", "scheduled_ttft_ms"))
    }
    return Recorded(lab, name, model, loads, prompts, open_loops, seats, seats_source, bandwidth_gb_s, bandwidth_source)


def usable_loads(entries: Entries, name: str) -> dict[str, Entry]:
    """The measured loads of this engine in which every user had a seat."""
    loads = {
        key: e
        for key, e in entries.items()
        if key.startswith("load/") and e["kind"] == "measured" and e["provenance"].get("engine") == name
        if all(e["values"].get(figure) for figure in ("tpot_ms", "ttft_ms", "output_tok_s", "input_tokens"))
    }
    return {key: e for key, e in loads.items() if e["values"]["users"] <= seats_of(name, loads)[0]}


def seats_of(name: str, loads: Entries) -> tuple[int, str]:
    """How many requests the engine ran at once, and where that is recorded: in a flag, or as the largest load."""
    for entry in loads.values():
        flag = SEATS.get(name, "")
        if str(seats := entry["provenance"]["flags"].get(flag, "")).isdigit() and int(seats):
            return int(seats), f"recorded flag: {flag}"
    return max((e["values"]["users"] for e in loads.values()), default=0), "the largest measured number of users"


def bandwidth(lab: str, entries: Entries, source: Entry) -> tuple[float, str]:
    """The memory bandwidth in GB/s and its source. Lab 3.3.2 measures the processor's; for a GPU it is quoted."""
    if lab == "3.3.2" and source["runner"] != "native":
        for name, sheet in roofline.DATA_SHEETS.items():
            if name in (source.get("gpu") or ""):
                return sheet.bandwidth_gb_s, sheet.kind
        raise LabError(
            f"The bandwidth of {source.get('gpu')} is not known.",
            "add it from its data sheet to DATA_SHEETS in shared/metrics/roofline.py",
        )
    key, cell = BANDWIDTH_IN[lab]
    if key not in entries:
        raise LabError(
            f"The ledger of lab {lab} has no memory bandwidth ({key}).", f"run the cell `{cell}` of lab {lab}"
        )
    return entries[key]["values"]["bandwidth_gb_s"], f"{entries[key]['kind']}, {lab}: {key}"

"""The file of `make scale-out-bench`: what it measured of each system, one value for each round.

found = scale_out.read(scale_out.file())
found.columns["ray-2"]["tok_s/32"]         # of two replicas with 32 users at once
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.errors import LabError

SCHEMA = 1
SYSTEMS = {  # what each system is, in the order of tables
    "direct": "one vLLM server",
    "ray-1": "Ray Serve LLM, 1 replica",
    "ray-2": "Ray Serve LLM, 2 replicas",
    "gateway-ray": "gateway in front of Ray Serve LLM, 2 replicas",
    "gateway-vllm": "gateway in front of 2 vLLM servers",
}
Cells = Mapping[str, Sequence[float]]  # by the key of a figure, such as "tok_s/32": one value for each round


@dataclass(frozen=True)
class Benchmark:
    """A finished benchmark: its figures by system, the numbers of users at once, its notes and where it was made."""

    columns: Mapping[str, Cells]
    users: Sequence[int]
    notes: Sequence[str]
    provenance: Mapping[str, Any]


def file() -> Path:
    """Where the last benchmark of this machine is kept."""
    return paths.results() / "scale-out.json"


def keep(found: Benchmark) -> Path:
    """Write the benchmark and return its file. Raises LabError if it can't be written."""
    kept = {"schema": SCHEMA, "kind": "measured", **vars(found)}
    files.write(file(), json.dumps(kept, indent=1).encode() + b"\n")
    return file()


def read(kept: Path) -> Benchmark:
    """A kept benchmark. Raises LabError if there is none, or if the file isn't one."""
    again = "make scale-out-bench measures it (ARGS=--quick: fewer loads)"
    try:
        found = json.loads(kept.read_text())
        if found["schema"] != SCHEMA:
            raise LabError(f"{paths.show(kept)} was written by another version of the labs.", again)
        columns = {
            str(name): {str(key): [float(value) for value in values] for key, values in cells.items()}
            for name, cells in found["columns"].items()
        }
        users, notes = [int(count) for count in found["users"]], [str(note) for note in found["notes"]]
        if not users:
            raise ValueError("no numbers of users")
        return Benchmark(columns, users, notes, dict(found["provenance"]))
    except OSError as e:
        raise LabError(f"There is no benchmark in {paths.show(kept)}: {e.strerror}.", again) from None
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise LabError(f"{paths.show(kept)} holds no benchmark ({type(e).__name__}: {e}).", again) from None

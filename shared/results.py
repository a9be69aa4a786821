"""The ledger: what was measured, where it came from, and the raw traces beside it.

    results.record("3.3.1", "users-4/vllm/round-1", metrics.summarise(run))

`results/3.3.1.json` holds one entry per key, `results/3.3.1/<key>.json.gz` the same entry with its raw
data. Both are written to a temporary file, synced and renamed, so a killed kernel leaves the old file
whole. If the ledger is torn all the same (a machine that froze leaves files of zeros), it is put aside
and made again from the raw files.
"""

import contextlib
import fcntl
import functools
import gzip
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared import paths
from shared.engine import Engine
from shared.errors import LabError
from shared.hardware import detect
from shared.metrics import Summary

SCHEMA = 1
Entry = dict[str, Any]


def record(
    lab: str,
    key: str,
    what: Summary | Mapping[str, Any],
    *,
    engine: Engine | None = None,
    raw: object = None,
    kind: str = "measured",
) -> Entry:
    """Write one entry and return it. A Summary brings its engine and its traces; a mapping needs them named.

    `kind` is "measured", "simulated", or "quoted: <source>, <date>". Raises LabError if the disk is full.
    """
    if kind not in ("measured", "simulated") and not kind.startswith("quoted: "):
        raise LabError(f"{kind!r} is not a kind of result.", "measured, simulated, or 'quoted: source, date'")
    if isinstance(what, Summary):
        values, raw = what.values(), [asdict(trace) for trace in what.run.traces]
        source = {**what.run.engine, "prompts": what.run.prompts, "max_tokens": what.run.max_tokens}
    else:
        values, source = dict(what), engine.provenance() if engine else {}
    entry: Entry = {
        "schema": SCHEMA,
        "key": key,
        "kind": kind,
        "values": values,
        "provenance": {**_here(), **source},
    }
    with _locked(lab):
        try:
            write(raw_file(lab, key), gzip.compress(json.dumps({"entry": entry, "raw": raw}).encode(), 6))
            ledger = _load(lab)
            ledger[key] = entry
            write(ledger_file(lab), json.dumps(ledger, indent=1).encode())
        except OSError as e:
            raise LabError(f"The result {key} can't be written to {paths.show(paths.results())}: {e.strerror}.",
                           "free some space, then run the cell again; earlier results are whole") from None  # fmt: skip
    return entry


def load_results(lab: str) -> dict[str, Entry]:
    """All entries of one lab, by key; empty if nothing was measured yet."""
    with _locked(lab):
        return _load(lab)


def set_aside(lab: str, prefix: str) -> None:
    """Make room for a new series under `prefix`: the old one moves, whole, to `<lab>.before-<time>`.

    Rounds of two runs, perhaps of different length, must not be mixed in one figure.
    """
    with _locked(lab):
        ledger = _load(lab)
        old = {key: entry for key, entry in ledger.items() if key.startswith(prefix)}
        if not old:
            return
        before = paths.results() / f"{lab}.before-{time.strftime('%Y%m%d-%H%M%S')}"
        write(before.with_name(before.name + ".json"), json.dumps(old, indent=1).encode())
        before.mkdir()
        for key in old:
            with contextlib.suppress(FileNotFoundError):
                raw_file(lab, key).rename(before / raw_file(lab, key).name)
        write(ledger_file(lab), json.dumps({k: e for k, e in ledger.items() if k not in old}, indent=1).encode())


def load_raw(lab: str, key: str) -> Any:
    """The raw data of one entry. Raises LabError if it is missing, torn, or another entry's."""
    file = raw_file(lab, key)
    try:
        stored = json.loads(gzip.decompress(file.read_bytes()))
        if stored["entry"]["key"] == key:
            return stored["raw"]
        problem = "holds another result"
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        problem = "is missing or torn"
    raise LabError(f"{paths.show(file)} {problem}.", "run the cell that measures it again")


def ledger_file(lab: str) -> Path:
    return paths.results() / f"{lab}.json"


def raw_file(lab: str, key: str) -> Path:
    return paths.results() / lab / (key.replace("/", "--") + ".json.gz")


def write(file: Path, data: bytes) -> None:
    """Replace a file as a whole: after a crash it is the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)


def _load(lab: str) -> dict[str, Entry]:
    file = ledger_file(lab)
    if not file.exists():
        return {}
    with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):
        ledger = json.loads(file.read_bytes())
        if all(entry["schema"] == SCHEMA for entry in ledger.values()):
            return dict(ledger)
    aside = file.with_name(f"{file.name}.torn-{time.strftime('%Y%m%d-%H%M%S')}")
    file.rename(aside)
    print(f"{paths.show(file)} was torn; it is kept as {aside.name} and made again from the raw results.")
    ledger = {}
    for raw in sorted((paths.results() / lab).glob("*.json.gz"), key=lambda f: f.stat().st_mtime):
        with contextlib.suppress(OSError, ValueError, EOFError, KeyError, TypeError):
            entry = json.loads(gzip.decompress(raw.read_bytes()))["entry"]
            ledger[entry["key"]] = entry
    write(file, json.dumps(ledger, indent=1).encode())
    return ledger


@contextlib.contextmanager
def _locked(lab: str) -> Iterator[None]:
    """Two notebooks may record at once: each sees the other's entries."""
    try:
        paths.results().mkdir(parents=True, exist_ok=True)
        lock = (paths.results() / f".{lab}.lock").open("w")
    except OSError as e:
        raise LabError(f"{paths.show(paths.results())} can't be written: {e.strerror}.", "make it writable") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _here() -> dict[str, Any]:
    """Where and when, for every entry."""
    machine = detect()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "profile": machine.profile,
        "size": machine.size,
        "processor": machine.processor,
        "machine_cores": machine.cores,
        "memory_gib": round(machine.memory_gib, 1),
        "gpu": machine.gpu,
        "git_commit": _git("rev-parse", "--short=12", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--", "shared", "solutions", "environment")),
    }


@functools.cache  # the code that runs is the code that was imported, whatever is committed later
def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None in a copy without history."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=paths.REPO, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None

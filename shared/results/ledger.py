"""The ledger: results, their provenance, and their raw traces.

    results.record("3.3.1", "load/users-4/vllm/round-1", metrics.summarise(run))
    results.load_results("3.3.1")["load/users-4/vllm/round-1"]["values"]

Each result is a small file of its own in `results/3.3.1/`, with its raw data in a second file beside it
(shared.results.reading). Both files are replaced as a whole (shared.files), so a killed kernel leaves the old one or
the new one. If a freezing machine tears a file, only that result is lost.
"""

import contextlib
import functools
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.client import Trace
from shared.load.loads import Run
from shared.metrics.summary import Summary
from shared.results import packing
from shared.results.provenance import VOLATILE, made_here, now
from shared.results.reading import (
    KEY,
    KINDS,
    SCHEMA,
    Entries,
    Entry,
    LedgerContents,
    file_name,
    older_index,
    read_ledger,
    read_raw,
)


class WrongKey(LabError):
    """A key that no result can have. It was typed wrong, so it is no reason why a machine can't measure something."""


def record(
    lab: str,
    key: str,
    what: Summary | Mapping[str, Any],
    *,
    engine: Engine | None = None,
    raw: object = None,
    kind: str = "measured",
    uses: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Entry:
    """Write one result and return its entry. A Summary brings its engine and traces; for a mapping, pass them.

    `kind` is "measured", "simulated", "guessed" (a student's prediction), "written" (a conclusion), or
    "quoted: <source>, <date>" with a date such as 2026-11-24, 2026-11 or 2026. `uses` has the hashes of the notebook's
    functions that the result depends on, by name. `settings` has everything else that it depends on. Raises LabError
    if the files can't be written; the earlier result is then intact.
    """
    if not KINDS.fullmatch(kind):
        raise LabError(
            f"{kind!r} is not a kind of result.", "use measured, simulated, guessed, or 'quoted: source, date'"
        )
    check_key(key)
    data: dict[str, Any]
    if isinstance(what, Summary):
        values, data = what.values(), {"traces": packing.pack(what.run.traces)}
        run = what.run
        source = {**run.engine, "prompts": run.prompts, "max_tokens": run.max_tokens, "load": dict(run.load)}
    else:
        values, data, source = dict(what), {"raw": raw}, engine.provenance() if engine else {}
    source |= {**(settings or {}), **({"uses": dict(uses)} if uses else {})}
    # A quoted figure wasn't made on this machine, so it records only the time.
    here = {"time": now()} if kind.startswith("quoted") else made_here(lab)
    entry: Entry = {"schema": SCHEMA, "key": key, "kind": kind, "values": values, "provenance": {**here, **source}}
    packed = gzip.compress(json.dumps({"entry": entry, **data}).encode(), 6)
    file, raw_data = entry_file(lab, key), raw_file(lab, key)
    _contents(lab)  # raises if a newer version wrote results, so these are not touched
    with files.writing(file, f"The result {key}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.staged(raw_data, packed) as new_raw, files.staged(file, _written(entry)) as new:
            files.commit(new_raw, raw_data)  # first, so that an entry never stands without its raw data
            files.commit(new, file)
    return entry


def check_key(key: str) -> None:
    """Raise WrongKey unless a result can have this key."""
    if not KEY.fullmatch(key):
        raise WrongKey(
            f"{key!r} can't be the key of a result.", "use words of letters and digits, separated by / - or ."
        )


def load_results(lab: str, kind: str | None = "measured") -> dict[str, Entry]:
    """The entries of one lab, by key; empty if there are none. No file is changed.

    By default only measured results, so that no figure mixes kinds without a mark. Pass "simulated", "guessed" or
    "quoted" for another kind, None for all.
    """
    found = read_ledger(folder_of(lab))
    _say(found)
    return {key: e for key, e in found.entries.items() if kind in (None, e["kind"].partition(":")[0])}


def reusable(lab: str, key: str, asked: Mapping[str, Any]) -> Entry | None:
    """The result under this key if it can be reused, else None.

    It can if its raw data is intact, and if the machine, the lab's code and everything in `asked` (the engine's
    provenance, the load's settings, the functions used) match. It may be from another day. Otherwise it is set aside,
    with all results of its series that were made on another machine or by other code, so that no figure mixes rounds of
    two kinds. A series is the part of the key before the first "/".
    """
    there = _contents(lab).entries
    entry = there.get(key)
    if entry is None:
        return None
    here = made_here(lab)
    # A result without a draft or the notebook's functions lacks these fields, so one that has them is another result.
    without = {"uses": None} | ({"draft": None} if "engine" in asked else {})
    wanted = json.loads(json.dumps({**here, **without, **asked}))
    if not (reason := _unlike(lab, entry, wanted)):
        return entry
    series = key.partition("/")[0]
    moved = {k: e for k, e in there.items() if k == key or (k.partition("/")[0] == series and _unlike(lab, e, here))}
    aside = _set_aside(lab, moved)
    print(f"Moved {len(moved)} earlier results of {series} to {paths.show(aside)}: {reason}.")
    return None


def set_aside(lab: str, prefix: str, *, one: bool = False) -> None:
    """Move all results under `prefix` to `<lab>.before-<time>`, to make room for a new series.

    With `one` only the result whose whole key it is.
    """
    there = _contents(lab).entries
    if old := {key: e for key, e in there.items() if key == prefix or (key.startswith(prefix) and not one)}:
        _set_aside(lab, old)


def load_raw(lab: str, key: str) -> Any:
    """The raw data of one entry; traces in the form that `Trace.restore` takes.

    Raises LabError if it is missing or torn, or belongs to another entry.
    """
    file = raw_file(lab, key)
    stored, problem = read_raw(file), "is missing or torn"
    if stored and stored["entry"]["key"] != key:
        problem = "holds another result"
    elif stored:
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
            return packing.unpack(stored["traces"]) if "traces" in stored else stored["raw"]
    raise LabError(f"{paths.show(file)} {problem}.", "run the cell that measures it again")


def run_of(entry: Entry, raw: Any) -> Run:
    """The run, restored from its entry and its raw traces."""
    traces = tuple(Trace.restore(t) for t in raw)
    source, values = entry["provenance"], entry["values"]
    return Run(
        traces,
        values["users"],
        source["max_tokens"],
        source["prompts"],
        {},
        values["client_cpu_share"],
        values["counted"],
        source.get("load", {}),
        values["client_lag_ms"],
        values["others_cpu_share"],
    )


def stored_copy(lab: str, key: str) -> Entry | None:
    """The copy of the entry in its raw file; None if that is missing or torn, or belongs to another entry."""
    stored = read_raw(raw_file(lab, key))
    return stored["entry"] if stored and stored["entry"]["key"] == key else None


def folder_of(lab: str) -> Path:
    return paths.results() / lab


def entry_file(lab: str, key: str) -> Path:
    return folder_of(lab) / f"{file_name(key)}.json"


def raw_file(lab: str, key: str) -> Path:
    return folder_of(lab) / f"{file_name(key)}.json.gz"


def _unlike(lab: str, entry: Entry, wanted: Mapping[str, Any]) -> str:
    """Why this result can't be reused; "" if it can."""
    then = entry["provenance"]
    other = [name for name in wanted if name not in VOLATILE and wanted[name] != then.get(name)]
    if "uses" in other:
        before, after = then.get("uses") or {}, wanted["uses"] or {}
        other[other.index("uses")] = ", ".join(
            name for name in {**before, **after} if before.get(name) != after.get(name)
        )
    if other:
        return f"{', '.join(other)} changed"
    if entry["kind"] != "measured" or stored_copy(lab, entry["key"]) != entry:
        return "the result was not measured, or its raw data is not intact"
    return ""


def _contents(lab: str) -> LedgerContents:
    """The lab's results. An index of an older version is moved away first, with its raw files."""
    found = read_ledger(folder_of(lab))
    _say(found)
    if found.older:
        with _locked(lab):
            folder, index = folder_of(lab), older_index(folder_of(lab))
            aside = files.unused(paths.results() / f"{lab}.older-version")
            with files.writing(aside):
                aside.mkdir()
                for raw in folder.glob("*.json.gz") if folder.exists() else ():
                    if not raw.with_suffix("").exists():
                        raw.rename(aside / raw.name)
                with contextlib.suppress(FileNotFoundError):  # another notebook has moved it
                    index.rename(aside / index.name)
            print(f"The older version's results are kept in {paths.show(aside)}.")
    return found


def _set_aside(lab: str, moved: Entries) -> Path:
    """Move these results, entries and raw data, to a folder beside the lab's. Returns that folder."""
    with _locked(lab):
        aside = files.unused(paths.results() / f"{lab}.before")
        with files.writing(aside):
            aside.mkdir()
            for key in moved:
                for file in (raw_file(lab, key), entry_file(lab, key)):
                    with contextlib.suppress(FileNotFoundError):
                        file.rename(aside / file.name)
    return aside


def _written(entry: Entry) -> bytes:
    return json.dumps(entry, indent=1).encode()


def _say(found: LedgerContents) -> None:
    for fault in found.faults:
        _once(fault)


@functools.cache  # once per text, although each cell reads the ledger
def _once(text: str) -> None:
    print(text)


def _locked(lab: str) -> contextlib.AbstractContextManager[None]:
    """The lock under which results are set aside: of two notebooks at once, the second moves what the first left."""
    waiting = "Another notebook is setting results aside; waiting for it ..."
    return files.exclusive(paths.results() / f".{lab}.lock", waiting, paths.show(paths.results()))

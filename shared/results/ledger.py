"""The ledger: what was measured, where it came from, and the raw traces beside it.

    done = results.resume("3.3.1", "load/", engines)            # what need not be measured again
    results.record("3.3.1", "load/users-4/vllm/round-1", metrics.summarise(run))

`results/3.3.1.json` holds one entry per key, `results/3.3.1/<key>.json.gz` the same entry with its raw data.
Both are replaced as a whole (shared.files), so a killed kernel leaves the old ones. What is torn all the same
(a machine that froze leaves files of zeros) is named and kept, and costs only itself (shared.results.reading).
"""

import contextlib
import fcntl
import functools
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.errors import LabError
from shared.launch.running import Engine
from shared.metrics.summary import Summary
from shared.results import packing
from shared.results.provenance import VOLATILE, made_here, now
from shared.results.reading import KEY, KINDS, SCHEMA, Entries, Entry, LedgerContents, raw_name, read_ledger, read_raw


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

    `kind` is "measured", "simulated", or "quoted: <source>, <date>" (2026-11-24, 2026-11 or 2026). Raises
    LabError if it can't be written: then nothing of it is there, and what was there before is whole.
    """
    if not KINDS.fullmatch(kind):
        raise LabError(f"{kind!r} is not a kind of result.", "measured, simulated, or 'quoted: source, date'")
    if not KEY.fullmatch(key):
        raise LabError(f"{key!r} can't be the key of a result.", "words of letters and digits, parted by / - or .")
    data: dict[str, Any]
    if isinstance(what, Summary):
        values, data = what.values(), {"traces": packing.pack(what.run.traces)}
        run = what.run
        source = {**run.engine, "prompts": run.prompts, "max_tokens": run.max_tokens, "load": dict(run.load)}
    else:
        values, data, source = dict(what), {"raw": raw}, engine.provenance() if engine else {}
    # A quoted figure wasn't made on this machine: of here it has only the moment.
    here = {"time": now()} if kind.startswith("quoted") else made_here()
    entry: Entry = {"schema": SCHEMA, "key": key, "kind": kind, "values": values, "provenance": {**here, **source}}
    packed = gzip.compress(json.dumps({"entry": entry, **data}).encode(), 6)
    file = raw_file(lab, key)
    with _locked(lab), files.writing(ledger_file(lab), f"The result {key}"):
        there = _ours(lab)
        file.parent.mkdir(exist_ok=True)
        with files.staged(file, packed) as new, _ledger(lab, {**there.entries, key: entry}, there.torn) as commit:
            if file.exists() and read_raw(file) is None:
                _keep(file)
            files.commit(new, file)
            commit()
    return entry


def load_results(lab: str, kind: str | None = "measured") -> dict[str, Entry]:
    """The entries of one lab, by key; empty if there is nothing yet. No file is changed.

    Only what was measured, so that no figure mixes it with the rest unmarked: ask for "simulated" or "quoted",
    or with None for all.
    """
    found = read_ledger(ledger_file(lab))
    _say(found)
    return {key: e for key, e in found.entries.items() if kind in (None, e["kind"].partition(":")[0])}


def resume(lab: str, prefix: str, engines: Sequence[Engine] = (), **asked: object) -> set[str]:
    """The keys under `prefix` that need not be measured again; the other results there are set aside.

    A result stays if its raw data is whole, and if what its provenance says of the machine, of the code in
    `shared`, of its engine and of what was `asked` (max_tokens=64) is so now. It may be of another day.
    """
    sources = [engine.provenance() for engine in engines] or [{}]
    now = [json.loads(json.dumps({**made_here(), **source, **asked})) for source in sources]
    with _locked(lab):
        there = _ours(lab)
        why = {key: _unlike(lab, entry, now) for key, entry in there.entries.items() if key.startswith(prefix)}
        done = {key for key, reason in why.items() if not reason}
        if done:
            newest = max(there.entries[key]["provenance"]["time"] for key in done)
            print(f"{len(done)} results of {prefix} stay, the newest of {newest[:16].replace('T', ' ')}. "
                  f'To measure them again: results.set_aside("{lab}", "{prefix}")')  # fmt: skip
        if len(done) < len(why):
            aside = _set_aside(lab, there, {key: there.entries[key] for key in why.keys() - done}, "before")
            reasons = "; ".join(sorted(set(why.values()) - {""}))
            print(f"{len(why) - len(done)} were set aside ({reasons}): {paths.show(aside)}")
    return done


def set_aside(lab: str, prefix: str) -> None:
    """Make room for a new series under `prefix`: the old one moves, whole, to `<lab>.before-<time>`.

    Rounds of two runs, perhaps of different length, must not be mixed in one figure.
    """
    with _locked(lab):
        there = _ours(lab)
        if old := {key: entry for key, entry in there.entries.items() if key.startswith(prefix)}:
            _set_aside(lab, there, old, "before")


def load_raw(lab: str, key: str) -> Any:
    """The raw data of one entry; traces in the form that `Trace.restore` takes.

    Raises LabError if it is missing, torn, or another entry's.
    """
    file = raw_file(lab, key)
    stored, problem = read_raw(file), "is missing or torn"
    if stored and stored["entry"]["key"] != key:
        problem = "holds another result"
    elif stored:
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
            return packing.unpack(stored["traces"]) if "traces" in stored else stored["raw"]
    raise LabError(f"{paths.show(file)} {problem}.", "run the cell that measures it again")


def stored_copy(lab: str, key: str) -> Entry | None:
    """The entry as its raw file holds it; None if that is missing, torn, or another entry's."""
    stored = read_raw(raw_file(lab, key))
    return stored["entry"] if stored and stored["entry"]["key"] == key else None


def ledger_file(lab: str) -> Path:
    return paths.results() / f"{lab}.json"


def raw_file(lab: str, key: str) -> Path:
    return paths.results() / lab / raw_name(key)


def _unlike(lab: str, entry: Entry, now: Sequence[Mapping[str, Any]]) -> str:
    """Why this result can't stand for one measured now; "" if it can."""
    then = entry["provenance"]
    same = [source for source in now if source.get("engine") == then.get("engine")]
    if not same:
        return f"{then.get('engine', 'no engine')} is not asked for now"
    other = min(([n for n in s if n not in VOLATILE and s[n] != then.get(n)] for s in same), key=len)
    if other:
        return f"other {', '.join(other)}"
    if entry["kind"] != "measured" or stored_copy(lab, entry["key"]) != entry:
        return "not measured, or raw data not whole"
    return ""


def _ours(lab: str) -> LedgerContents:
    """What there is to add to. Results of an older schema make room first."""
    found = read_ledger(ledger_file(lab))
    _say(found)
    if found.old:
        _set_aside(lab, found, found.old, "older-schema")
        found = read_ledger(ledger_file(lab))
    return found


def _set_aside(lab: str, there: LedgerContents, moved: Entries, why: str) -> Path:
    """Move these entries and their raw files to `<lab>.<why>-<time>`."""
    aside = files.unused(paths.results() / f"{lab}.{why}")
    index = aside.with_name(aside.name + ".json")
    rest = {key: entry for key, entry in there.entries.items() if key not in moved}
    with files.writing(index):
        files.write(index, json.dumps(moved, indent=1).encode())
        with _ledger(lab, rest, there.torn) as commit:
            aside.mkdir()
            for key in moved:
                with contextlib.suppress(FileNotFoundError):
                    raw_file(lab, key).rename(aside / raw_name(key))
            commit()
    return index


@contextlib.contextmanager
def _ledger(lab: str, entries: Entries, torn: bool) -> Iterator[Any]:
    """A new ledger, on the disk already; it counts once the function that this gives is called."""
    file = ledger_file(lab)
    with files.staged(file, json.dumps(entries, indent=1).encode()) as new:

        def commit() -> None:
            if torn:
                _keep(file)
            files.commit(new, file)

        yield commit


def _keep(torn: Path) -> None:
    aside = files.unused(torn.with_name(torn.name + ".torn"))
    torn.rename(aside)
    print(f"{paths.show(torn)} was torn or no result; it is kept as {aside.name}.")


def _say(found: LedgerContents) -> None:
    for fault in found.faults:
        _once(fault)


@functools.cache  # each cell reads the ledger
def _once(text: str) -> None:
    print(text)


@contextlib.contextmanager
def _locked(lab: str) -> Iterator[None]:
    """Two notebooks may record at once: each sees the other's entries."""
    file = paths.results() / f".{lab}.lock"
    with contextlib.ExitStack() as held:
        with files.writing(file, paths.show(paths.results())):
            paths.results().mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(file.open("w")), fcntl.LOCK_EX)
        yield

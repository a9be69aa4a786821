"""Reading a ledger, whoever wrote it and whatever became of it: nothing here changes a file.

    found = read(Path("results/3.3.1.json"))      # found.entries, found.faults

The raw files beside a ledger hold its entries as well. So whatever of it is torn costs only itself: it is
named in `faults`, and the rest is read from them.
"""

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.errors import LabError

SCHEMA = 2  # 1: raw traces were not packed, and the code that measured was not named by its hash
LARGEST = 256 * 2**20  # bytes of one result, unpacked: the labs' own have a few hundred thousand
KINDS = re.compile(r"measured|simulated|quoted: .+, \d{4}(-\d\d){0,2}")
KEY = re.compile(r"\w[\w.]*([-/]\w[\w.]*)*")  # no "--": it stands for "/" in the name of the raw file
Entry = dict[str, Any]
Entries = Mapping[str, Entry]  # by key


@dataclass(frozen=True)
class LedgerContents:
    """What a ledger and the raw files beside it hold."""

    entries: dict[str, Entry]
    old: dict[str, Entry]  # of an older schema
    torn: bool  # the ledger itself, or a part of it
    faults: tuple[str, ...]  # what is not read as it should be, and what to do


def read_ledger(file: Path) -> LedgerContents:
    """All that can be read of a ledger. Raises LabError if it can't be opened, or a newer version wrote it."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = b"{}"
    except OSError as e:
        raise LabError(f"{paths.show(file)} can't be read: {e.strerror}.", f"ls -l {paths.show(file)}") from None
    ledger, name, faults = _parsed(data), paths.show(file), []
    whole = isinstance(ledger, dict)
    if not whole:
        what = "is empty" if not data else "holds only zeros" if not data.strip(b"\0") else "is torn or no ledger"
        faults.append(f"{name} {what}")
    stored: dict[str, dict[str, Entry]] = {"old": {}, "today's": {}}

    def take(entry: Entry, place: Path) -> None:
        if entry["schema"] > SCHEMA:
            raise LabError(f"{paths.show(place)} is of schema {entry['schema']}; these labs read {SCHEMA} at most.",
                           "git pull; or keep what you measure elsewhere: export LABS_RESULTS=~/results")  # fmt: skip
        stored["today's" if entry["schema"] == SCHEMA else "old"][entry["key"]] = entry

    strange = []
    for key, entry in ledger.items() if whole else ():
        if _is_entry(entry) and entry["key"] == key:
            take(entry, file)
        else:
            strange.append(key)
    if strange:
        faults.append(f"{name}: {len(strange)} of its entries are torn or no results ({', '.join(strange)[:60]!r})")
    known = {raw_name(key) for key in stored["old"] | stored["today's"]}
    rescued = 0
    for raw in sorted(file.with_suffix("").glob("*.json.gz")):
        if raw.name in known:
            continue
        beside = read_raw(raw)
        if beside and raw_name(beside["entry"]["key"]) == raw.name:
            take(beside["entry"], raw)
            rescued += 1
        elif raw.exists():  # else another notebook set it aside just now
            faults.append(f"{paths.show(raw)} is torn or no result: run the cell that measures it again")
    if rescued or strange or not whole:
        faults.append(f"{rescued} results that {name} lacks were read from the raw files; run the cell of any that "
                      "is missing")  # fmt: skip
    if stored["old"]:
        faults.append(f"{name}: {len(stored['old'])} results are of an older schema (today's is {SCHEMA}): "
                      "measure again; they are kept")  # fmt: skip
    return LedgerContents(stored["today's"], stored["old"], bool(strange) or not whole, tuple(faults))


def read_raw(file: Path) -> dict[str, Any] | None:
    """An entry with its raw data, from a raw file; None if it is missing, torn, far too large or something else."""
    try:
        with gzip.open(file) as packed:  # a small file can unpack to more than any memory holds
            data = packed.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error):
        return None
    stored = _parsed(data) if len(data) <= LARGEST else None
    return stored if isinstance(stored, dict) and _is_entry(stored.get("entry")) else None


def raw_name(key: str) -> str:
    return key.replace("/", "--") + ".json.gz"


def _parsed(data: bytes) -> Any:
    """What the JSON says; None if it is none, or more than a result can hold: too deep, a number too long."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or type(entry.get("schema")) is not int:
        return False
    if not all(isinstance(entry.get(name), dict) for name in ("values", "provenance")):
        return False
    texts = (entry.get("key"), entry.get("kind"))
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry["provenance"].get("time"), str):
        return False
    try:
        json.dumps(entry, indent=1)  # as it is written: deeper JSON can be read than written
    except RecursionError:
        return False
    return bool(KEY.fullmatch(entry["key"]))

"""Read a lab's results, even if a crash has torn some of them. No function of this module changes a file.

    found = read_ledger(Path("results/3.3.1"))      # found.entries, found.faults

Each result is two files: `load--users-4--vllm--round-1.json` has the entry, and the same name with `.gz` appended has
a copy of the entry with its raw data. So a torn file costs only its own result. `faults` names it.
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

SCHEMA = 3  # 2: all results of a lab in one index; 1: raw traces were not packed
LARGEST = 256 * 2**20  # bytes of one result, unpacked; the labs' own results have a few hundred thousand
DEEPEST = 100  # levels of an entry; json reads deeper nesting than it writes, and no result of the labs has ten
KINDS = re.compile(r"measured|simulated|guessed|written|quoted: .+, \d{4}(-\d\d){0,2}")
KEY = re.compile(r"\w[\w.]*([-/]\w[\w.]*)*")  # no "--": it stands for "/" in the name of a file
Entry = dict[str, Any]
Entries = Mapping[str, Entry]  # by key


@dataclass(frozen=True)
class LedgerContents:
    """The contents of the folder of a lab's results."""

    entries: dict[str, Entry]
    faults: tuple[str, ...]  # which files could not be read, and what to do
    older: bool  # whether an index of an older version of the labs lies beside the folder


def read_ledger(folder: Path) -> LedgerContents:
    """Every readable result of one lab. Raises LabError if the folder or a file can't be read, or if a newer version
    of the labs wrote one of them."""
    entries, torn, old = {}, [], 0
    for file in _listed(folder):
        try:
            data = file.read_bytes()
        except FileNotFoundError:  # another notebook set it aside just now
            continue
        except OSError as e:
            raise LabError(f"{paths.show(file)} can't be read: {e.strerror}.", f"ls -l {paths.show(file)}") from None
        entry = parsed(data)
        if not is_entry(entry) or file_name(entry["key"]) != file.name.removesuffix(".json"):
            torn.append(file)
        elif entry["schema"] > SCHEMA:
            raise LabError(
                f"{paths.show(file)} has schema {entry['schema']}, but these labs read {SCHEMA} at most.",
                "git pull; or keep your results in another folder: export LABS_RESULTS=~/results",
            )
        elif entry["schema"] < SCHEMA:
            old += 1
        else:
            entries[entry["key"]] = entry
    entries = {entry["key"]: entry for entry in sorted(entries.values(), key=_order)}
    faults = [f"{paths.show(file)} is torn or not a result: run the cell that measures it again" for file in torn[:3]]
    if len(torn) > 3:
        faults.append(f"{paths.show(folder)} has {len(torn) - 3} more files that are torn or not results")
    index = older_index(folder)
    if older := index.exists():
        faults.append(
            f"{paths.show(index)} was written by an older version of these labs, which kept all results of a "
            "lab in one file. It is not used: measure again"
        )
    if old:
        faults.append(f"{paths.show(folder)} has {old} results of a schema before {SCHEMA}: measure them again")
    return LedgerContents(entries, tuple(faults), older)


def _order(entry: Entry) -> tuple[str, list[tuple[int, str]]]:
    """A sort key: by time; within one second by the result's key, whose numbers sort as numbers."""
    words = re.split(r"(\d+)", entry["key"])
    return entry["provenance"]["time"], [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def older_index(folder: Path) -> Path:
    """The file in which versions of the labs before schema 3 kept all results of this lab."""
    return folder.with_name(f"{folder.name}.json")


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.name.endswith(".json") and file.name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as e:
        raise LabError(f"{paths.show(folder)} can't be read: {e.strerror}.", f"ls -ld {paths.show(folder)}") from None


def read_raw(file: Path) -> dict[str, Any] | None:
    """An entry with its raw data, from a raw file; None if it is missing, torn, too large or of another form."""
    try:
        with gzip.open(file) as packed:  # a small file can unpack to more than any memory holds
            data = packed.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error):
        return None
    stored = parsed(data) if len(data) <= LARGEST else None
    return stored if isinstance(stored, dict) and is_entry(stored.get("entry")) else None


def file_name(key: str) -> str:
    """The name of a result's files, without the ending."""
    return key.replace("/", "--")


def parsed(data: bytes) -> Any:
    """The value of this JSON; None if it isn't JSON, is nested too deeply, or has too long a number."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def is_entry(entry: Any) -> bool:
    """Whether the value has the form of an entry."""
    if not isinstance(entry, dict) or type(entry.get("schema")) is not int:
        return False
    if not all(isinstance(entry.get(name), dict) for name in ("values", "provenance")):
        return False
    texts = (entry.get("key"), entry.get("kind"))
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry["provenance"].get("time"), str):
        return False
    return bool(KEY.fullmatch(entry["key"])) and not nested_deeper(entry, DEEPEST)


def nested_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in this value more than `levels` deep."""
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return not levels or any(nested_deeper(one, levels - 1) for one in inside if isinstance(one, dict | list))

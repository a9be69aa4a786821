"""Traces as the ledger stores them: one column per field, timestamps as differences.

    stored = pack(traces)
    [Trace.restore(plain) for plain in unpack(stored)] == traces

A timestamp in nanoseconds has 16 digits; its difference from the previous one has 8. Compressed, a token of a chat
takes about 8 bytes, with its timestamp, text and block. Nothing is rounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise
from typing import Any

from shared.load.client import Trace

BLOCKS = "blocks_ns"  # chunk timestamps equal block timestamps, so each is stored as an index into these
Columns = dict[str, list[Any]]


def pack(traces: Sequence[Trace]) -> Columns:
    rows = [_shorten(asdict(trace)) for trace in traces]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def unpack(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The traces in their plain form, as `Trace.restore` takes it. Raises ValueError or TypeError if torn."""
    rows = zip(*columns.values(), strict=True)
    return [_restored(dict(zip(columns, row, strict=True))) for row in rows]


def _shorten(trace: dict[str, Any]) -> dict[str, Any]:
    place = {stamp: i for i, stamp in enumerate(trace[BLOCKS])}
    short = dict(trace)
    for name in _stamps(trace):
        if name != BLOCKS and trace[name] and all(stamp in place for stamp in trace[name]):
            short[name] = {"blocks": _differences([place[stamp] for stamp in trace[name]], 0)}
        else:
            short[name] = _differences(trace[name], trace["sent_ns"])
    return short


def _restored(short: dict[str, Any]) -> dict[str, Any]:
    plain = dict(short)
    blocks = plain[BLOCKS] = _sums(short[BLOCKS], short["sent_ns"])
    for name in _stamps(short):
        if isinstance(short[name], dict):
            plain[name] = [blocks[i] for i in _sums(short[name]["blocks"], 0)]
        elif name != BLOCKS:
            plain[name] = _sums(short[name], short["sent_ns"])
    return plain


def _stamps(trace: Mapping[str, Any]) -> list[str]:
    """The fields that hold lists of timestamps."""
    return [name for name, value in trace.items() if name.endswith("_ns") and isinstance(value, tuple | list | dict)]


def _differences(values: Sequence[int], start: int) -> list[int]:
    return [later - earlier for earlier, later in pairwise((start, *values))]


def _sums(differences: Sequence[int], start: int) -> list[int]:
    return list(accumulate(differences, initial=start))[1:]

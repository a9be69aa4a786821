"""Figures out of the ledger's entries, ordered for a plot or a verdict."""

from typing import Any

from shared.results.reading import Entries

Rounds = dict[tuple[str, int], list[float]]


def rounds(entries: Entries, value: str, prefix: str = "load/", by: str = "users") -> Rounds:
    """(engine, users) → the value in each round; `value` may name a spread's median: "ttft_ms".

    `by` names another figure of the load in place of its users: "input_tokens".
    """
    found: Rounds = {}
    for key, entry in entries.items():
        if key.startswith(prefix) and entry["values"].get(value) is not None:
            place = (entry["provenance"]["engine"], round(figure_value(entry["values"][by])))
            found.setdefault(place, []).append(figure_value(entry["values"][value]))
    return found


def figure_value(value: Any) -> float:
    """A figure, or the median of one that is a spread."""
    return float(value["median"] if isinstance(value, dict) else value)

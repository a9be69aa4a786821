"""Figures from the ledger's entries, grouped for a plot or a comparison."""

from typing import Any

from shared.results.reading import Entries

Rounds = dict[tuple[str, int], list[float]]


def rounds(entries: Entries, value: str, prefix: str = "load/", by: str = "users") -> Rounds:
    """(engine, users) → the value in each round. Where `value` names a spread, such as "ttft_ms", its median.

    `by` names the figure of the load that takes the place of users, such as "input_tokens".
    """
    found: Rounds = {}
    for key, entry in entries.items():
        if key.startswith(prefix) and entry["values"].get(value) is not None:
            place = (entry["provenance"]["engine"], round(figure_value(entry["values"][by])))
            found.setdefault(place, []).append(figure_value(entry["values"][value]))
    return found


def figure_value(value: Any) -> float:
    """The number, or the median of a spread."""
    return float(value["median"] if isinstance(value, dict) else value)

"""The cell that looks for the knee: what it prints where there is one, and where there is none."""

from types import SimpleNamespace

import pytest

from shared import metrics
from shared.course import checks, labs, registry

USERS = (1, 4, 8, 16, 32, 64)
BENT = (10.0, 40.0, 70.0, 100.0, 105.0, 107.0)
STRAIGHT = tuple(10.0 * users for users in USERS)


def find_knee(rounds: list[tuple[float, ...]]) -> dict[str, object]:
    """Run the cell on these curves, one for each round; returns what it recorded."""
    lab = labs.open("3.3.2")
    [cell] = [c for c in checks.notebook(registry.find_lab("3.3.2"))["cells"] if c["id"] == "find-knee"]
    measured = {users: list(values) for users, values in zip(USERS, zip(*rounds, strict=True), strict=True)}
    names = {
        "course": lambda engine, value: measured, "lab": lab, "metrics": metrics, "users_at_once": USERS,
        "effort": SimpleNamespace(tokens=16),
    }  # fmt: skip
    exec(cell["source"], names)
    return lab.values("knee")


def test_where_the_curve_bends_the_knee_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = find_knee([BENT])
    assert found["knee_users"] == 16
    assert "knee at 16 users (16 to 16): 100 tok/s" in capsys.readouterr().out


def test_where_it_only_rises_none_is_found_and_none_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    found = find_knee([STRAIGHT])
    said = capsys.readouterr().out
    assert "most curves have no knee between 1 and 64 users" in said
    assert "knee at" not in said
    assert "knee_users" not in found
    assert found["capacity_tok_s"] == 640


def test_a_knee_in_half_of_the_combinations_of_rounds_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    found = find_knee([STRAIGHT, (*STRAIGHT[:-1], 330.0)])
    assert "a knee was found in 32 of the 64 curves" in capsys.readouterr().out
    assert "knee_users" not in found

"""A slider recomputes its table. Without widgets, the table of the first values is shown."""

from typing import Any

import ipywidgets
import pytest

from shared.report import knobs
from shared.report.knobs import Knob, turn
from shared.report.table import Table
from tests.helpers.markdown import unaligned


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(knobs, "display", lambda bundle, raw: seen.append(bundle))
    return seen


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every slider and the HTML that shows the table."""
    found: list[Any] = []
    for kind in ("FloatSlider", "HTML"):
        real = getattr(ipywidgets, kind)
        monkeypatch.setattr(knobs.ipywidgets, kind, lambda *a, real=real, **k: found.append(real(*a, **k)) or found[-1])
    return found


def halves(limit_ms: float, users: float) -> Table:
    return Table("Half", ("", "value"), [("half", f"{limit_ms / 2:.1f}"), ("share", f"{1 / users:.2f}")])


def test_a_slider_recomputes_the_table(shown: list[dict[str, Any]], made: list[Any]) -> None:
    turn(halves, limit_ms=Knob(0, 10, 4), users=Knob(0, 8, 2))
    [bundle] = shown
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "At limit ms 4, users 2:" in bundle["text/plain"]
    assert "| half | 2.0 |" in unaligned(bundle["text/plain"])
    assert "2.0" in bundle["text/html"]
    table, limit, users = made
    limit.value = 8
    assert "4.0" in table.value
    users.value = 0
    assert "ZeroDivisionError" in table.value
    users.value = 4
    assert "0.25" in table.value


def test_wrong_first_values_raise(shown: list[dict[str, Any]]) -> None:
    with pytest.raises(ZeroDivisionError):
        turn(halves, limit_ms=Knob(0, 10, 4), users=Knob(0, 8, 0))
    assert shown == []

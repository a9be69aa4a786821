"""The check of a page's stop button, where the engine's answer is over before the button could be pressed."""

import asyncio
from typing import Any

import pytest

from shared.course.webui.in_chromium import any_page

PRESSED = {"pressed": True, "writing": True, "left": True, "left_ms": 9.0, "second_ms": 60.0, "idle_ms": 50.0}
OVER = {**PRESSED, "pressed": False, "writing": False, "left": False}
NO_BUTTON = {**OVER, "writing": True, "second_ms": None}


def tries(monkeypatch: pytest.MonkeyPatch, *each: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What the check finds if its tries go like this, and how many of them it takes."""
    left = list(each)

    async def one(_: object) -> dict[str, Any]:
        return left.pop(0)

    monkeypatch.setattr(any_page, "stop_once", one)
    found = asyncio.run(any_page.stop(None))  # type: ignore[arg-type]
    return found, len(each) - len(left)


def test_an_answer_that_was_over_too_soon_is_asked_for_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tries(monkeypatch, OVER, PRESSED) == (PRESSED, 2)
    assert tries(monkeypatch, OVER, OVER, PRESSED) == (OVER, 2)
    assert "the answer was over before" in any_page.stopped(OVER)


def test_a_page_without_a_button_is_judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tries(monkeypatch, NO_BUTTON, PRESSED) == (NO_BUTTON, 1)
    assert "it has no stop button" in any_page.stopped(NO_BUTTON)
    assert tries(monkeypatch, PRESSED) == (PRESSED, 1)

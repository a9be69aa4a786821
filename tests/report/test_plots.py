"""Each figure has a table of what it draws, and a static picture where a browser works."""

import contextlib
import shutil
import sys
from collections.abc import Iterator

import psutil
import pytest

from shared import LabError, results
from shared.hardware.host import browser
from shared.report import pictures, plots
from tests.helpers.ledger import fill


@pytest.fixture
def browsers() -> Iterator[None]:
    """End the browser before and after the test."""
    pictures.end()
    yield
    pictures.end()


def figure(title: str) -> str:
    return str(plots.bars(title, "GiB", {"A": {"weights": 0.25}}).figure.to_json())


def test_lines_carry_their_limit_into_the_table() -> None:
    fill({"llamacpp": 10, "vllm": 20})
    entries = results.load_results("3.3.1")
    plot = plots.by_users(entries, "output_tok_s", "Throughput", "tok/s", ("limit", {1: 370, 4: 1480, 16: 5920}))
    assert plot.header == ("users", "llama.cpp, tok/s", "vLLM, tok/s", "limit, tok/s")
    assert [row[0] for row in plot.rows] == ["1", "4", "16", "32"]
    assert [row[-1] for row in plot.rows] == ["370", "1,480", "5,920", "–"]
    assert [trace.name for trace in plot.figure.data] == ["llama.cpp", "vLLM", "limit"]
    plot = plots.by_prompt(entries, "ttft_ms", "TTFT", "ms")
    assert [row[0] for row in plot.rows] == ["128", "512"]


def test_nothing_to_draw_names_the_cell() -> None:
    with pytest.raises(LabError, match=r"no results to draw for “TTFT”.*\nFix: run the cell run-prompts"):
        plots.by_prompt({}, "ttft_ms", "TTFT", "ms")


def test_bars_are_told_apart_by_more_than_their_colour_and_unknown_is_no_bar() -> None:
    plot = plots.bars(
        "Memory", "GiB", {"A": {"weights": 0.25, "rest": None}, "B": {"weights": 0.25, "rest": 1.5}}, True
    )
    assert plot.rows == [("A", "0.25", "–"), ("B", "0.25", "1.5")]
    patterns = [bar.marker.pattern.shape for bar in plot.figure.data]
    assert len(set(patterns)) == 2
    assert plot.figure.data[1].y == (None, 1.5)
    assert plot.figure.layout.barmode == "stack"


@pytest.mark.browser
def test_the_same_figure_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = plots.bars("Memory", "GiB", {"A": {"weights": 0.25}}).png()
    assert first
    assert first.startswith(b"\x89PNG")
    monkeypatch.setattr(pictures.Browser, "draw", lambda *_: pytest.fail("drawn again"))
    assert plots.bars("Memory", "GiB", {"A": {"weights": 0.25}}).png() == first


@pytest.mark.browser
def test_a_browser_that_died_is_replaced_for_the_next_picture() -> None:
    path = browser()
    assert path
    assert pictures.picture(figure("before"), path)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # some end with the first that is killed
            if "chrom" in child.name():
                child.kill()
    pictures.picture(figure("at its death"), path)
    after = pictures.picture(figure("after"), path)
    assert after
    assert after.startswith(b"\x89PNG")


def test_a_browser_that_does_not_start_costs_the_picture_alone(browsers: None) -> None:
    path = shutil.which("false")
    assert path
    assert pictures.picture(figure("no browser"), path) is None
    assert not pictures.RUNNING


def test_a_picture_that_failed_is_drawn_at_the_next_call(browsers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes | Exception] = [RuntimeError("the browser died"), b"a picture"]
    seen = []

    def draw(self: pictures.Browser, figure: dict[str, object]) -> bytes:
        seen.append(self)
        result = drawn.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(pictures.Browser, "draw", draw)
    assert pictures.picture(figure("twice"), sys.executable) is None
    assert pictures.picture(figure("twice"), sys.executable) == b"a picture"
    assert pictures.picture(figure("twice"), sys.executable) == b"a picture"  # from the cache
    first, second = seen
    assert first is not second

"""The report says what the ledger holds, and no more; and it can be read where its readers are."""

import dataclasses
import re
from pathlib import Path

import pytest
from ledger import fill, provenance, trace
from playwright.sync_api import sync_playwright

from shared import LabError, hardware, metrics, results
from shared.load import Run
from shared.report import build_report


@pytest.fixture(autouse=True)
def no_browser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds each: only the test that looks at them makes them."""
    if "browser" not in request.keywords:
        monkeypatch.setattr("shared.plots.browser", lambda: None)


def test_without_results_there_is_no_report() -> None:
    with pytest.raises(LabError, match=r"nothing to report.*\nFix: run the cell `run-load`"):
        build_report("3.3.1")


def test_the_clear_winner_is_named_with_its_factor(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20})
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    line = next(row for row in text.splitlines() if row.startswith("| Inter-token latency"))
    assert line.count("**llama.cpp**: 2×") == 4
    assert "| Time to first token (TTFT), ms | no winner | no winner | no winner | no winner |" in text  # equal by design
    assert "not what they do on a GPU" in text
    assert "Not verified on hardware" in text


def test_what_speaks_against_a_result_stands_beside_it(own_results: Path) -> None:
    fill({"llamacpp": 10}, rounds=1)
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    assert "- No result is above the physical limit, and no client or other program was in the way." in text
    results.record("3.3.1", "predict/limits", {"bandwidth_gb_s": 1, "peak_tflop_s": 1, "ceiling_tok_s": 10})
    run = Run((dataclasses.replace(trace(), cached_tokens=30),), 1, 8, "short", provenance("llamacpp"), 0.95,
              others_cpu_share=0.4)  # fmt: skip
    results.record("3.3.1", "load/users-1/llamacpp/round-1", metrics.summarise(run))
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    beside = "- **Doubtful:** load/users-1/llamacpp/round-1: "
    assert f"{beside}the client kept a core 95 % busy." in text
    assert f"{beside}other programs took 40 % of the machine's cores meanwhile." in text
    assert f"{beside}a prefix cache supplied 30 of 40 prompt tokens" in text
    assert re.search(rf"{re.escape(beside)}[\d.]+ tok/s to one user is \d+ % of the physical limit", text)


def test_overlapping_rounds_have_no_winner(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 10.1})
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    ahead = text.split("## Which engine was ahead")[1].split("## Figures")[0]
    assert "**vLLM**" not in ahead
    assert ahead.count("| no winner") == 3 * 4 + 2  # three figures at four loads, two lengths of prompt


def test_engines_that_are_level_are_named_together(own_results: Path) -> None:
    fill({"ollama": 10.1, "llamacpp": 10, "vllm": 20, "sglang": 30})
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    line = next(row for row in text.splitlines() if row.startswith("| Inter-token latency"))
    assert line.count("**llama.cpp**, **Ollama**: 2×") == 4


def test_the_page_loads_nothing_from_anywhere(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20}, rounds=1)
    page = build_report("3.3.1").read_text()
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # the plotting library's own text aside
    assert not re.findall(r"""(?:src|href)=["']?\w+:""", outside)
    assert "<link" not in outside


@pytest.mark.browser
def test_a_reader_sees_figures_and_tables(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20})
    page_file = build_report("3.3.1")
    path = hardware.browser()
    assert path, "this test needs Chromium: sudo apt install chromium"
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for width, scheme in ((1200, "light"), (390, "dark")):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                offline=True,  # type: ignore[arg-type]
            )
            page = context.new_page()
            problems: list[str] = []
            page.on("pageerror", lambda e, seen=problems: seen.append(str(e)))
            page.on("request", lambda r, seen=problems: seen.append(r.url) if r.url.startswith("http") else None)
            page.goto(page_file.as_uri())
            page.wait_for_selector(".plot .scatterlayer .trace")
            assert page.locator(".plot").count() == 3
            assert page.locator(".plot").first.locator(".scatterlayer .trace").count() == 2
            assert page.locator("figure table").count() == 3
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # no sideways scrolling
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
            assert dark == (scheme == "dark")
            ink = page.locator(".plot .legendtext").first.evaluate("e => getComputedStyle(e).fill")
            assert ink == ("rgb(230, 237, 243)" if dark else "rgb(31, 35, 40)")
            assert problems == []
        browser.close()
    assert len(list(own_results.glob("report-figure-*.png"))) == 3

"""The report holds what the ledger holds and no more, and it can be read in a browser and on paper."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from shared import LabError, metrics, results
from shared.course import labs
from shared.course.benchmark import step_findings
from shared.course.benchmark.comparison import build_report
from shared.hardware import host
from shared.load import Run
from shared.results.ledger import folder_of
from tests.helpers.ledger import change_all, fill, provenance, record_load, trace
from tests.helpers.markdown import unaligned

FIGURES = 8  # three by users, one by prompt, two of steps, precision, memory


@pytest.fixture(autouse=True)
def no_browser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds each: only the test that looks at them makes them."""
    if "browser" not in request.keywords:
        monkeypatch.setattr("shared.report.plots.browser", lambda: None)


def test_without_results_there_is_no_report() -> None:
    with pytest.raises(LabError, match=r"nothing to report.*\nFix: run the cell `run-load`"):
        build_report("3.3.1")


def test_the_clear_winner_is_named_with_its_factor(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20})
    build_report("3.3.1")
    text = unaligned((own_results / "report.md").read_text())
    line = next(row for row in text.splitlines() if row.startswith("| Inter-token latency"))
    assert line.count("**llama.cpp**: 2×") == 4
    assert (
        "| Time to first token (TTFT), ms | no winner | no winner | no winner | no winner |" in text
    )  # equal by design
    assert "not what they do on a GPU" in text
    assert "Not verified on hardware" in text


def test_what_speaks_against_a_result_stands_beside_it(own_results: Path) -> None:
    fill({"llamacpp": 10}, rounds=1)
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    clean = "- No result is above the physical limit. No client slowed a result down"
    assert f"{clean}; for some results, the load from other programs is unknown." in text
    limits = {"bandwidth_gb_s": 1, "peak_tflop_s": 1, "decode_tok_s": {1: 10, 4: 9000}}
    results.record("3.3.1", "predict/limits", limits)
    run = Run(
        (dataclasses.replace(trace(), cached_tokens=30),),
        1,
        8,
        "short",
        provenance("llamacpp"),
        0.95,
        others_cpu_share=0.4,
    )
    results.record("3.3.1", "load/users-1/llamacpp/round-1", metrics.summarise(run))
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    beside = "- **Doubtful:** load/users-1/llamacpp/round-1: "
    assert f"{beside}the client kept a core busy for 95 % of the time." in text
    assert f"{beside}other programs took 40 % of the machine's cores during the load." in text
    assert f"{beside}a prefix cache supplied 30 of 40 prompt tokens" in text
    assert re.search(rf"{re.escape(beside)}[\d.]+ tok/s to 1 user is \d+ % of the physical limit", text)


def test_who_drops_requests_wins_nothing(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20})
    for number in (1, 2, 3):
        traces = (trace(gap_ms=1), *(trace(gap_ms=1, error="reset by peer"),) * 3)
        run = Run(traces, 4, 8, "short", provenance("vllm"), 0.01)
        results.record("3.3.1", f"load/users-4/vllm/round-{number}", metrics.summarise(run))
    build_report("3.3.1")
    text = unaligned((own_results / "report.md").read_text())
    line = next(row for row in text.splitlines() if row.startswith("| Inter-token latency"))
    assert [cell.strip() for cell in line.split("|")][2:6] == [
        "**llama.cpp**: 2×",
        "only one measured",
        "**llama.cpp**: 2×",
        "**llama.cpp**: 2×",
    ]
    assert (
        "load/users-4/vllm/round-1: 3 of 4 requests failed (the first: reset by peer), so the tables that rank "
        "engines leave this load out." in text
    )


def test_an_engine_that_took_no_part_this_time_shows_nothing_of_an_earlier_one(own_results: Path) -> None:
    fill(ALL_FOUR)
    results.record("3.3.1", "engine/sglang", {"missing": "no memory"})
    results.set_aside("3.3.1", "load/users-1/sglang")
    build_report("3.3.1")
    found = sections(own_results)
    for section in ("Why: what a step is made of", "Start-up and memory"):
        assert "SGLang" not in found[section]
        assert "vLLM" in found[section]


def test_behind_is_who_measured_more_and_a_model_that_misses_explains_nothing() -> None:
    parts = {"bytes_ms": 10.0, "kv_ms_per_user": 0.0}
    fits = {
        "llamacpp": {**parts, "overhead_ms": 5.0, "operations_ms_per_user": 1.0, "steps": {"1": [16.0, 16.0]}},
        "vllm": {**parts, "overhead_ms": 9.0, "operations_ms_per_user": 1.5, "steps": {"1": [20.0, 20.5]}},
        "sglang": {**parts, "overhead_ms": 1.0, "operations_ms_per_user": 1.0, "steps": {"1": [30.0, 12.0]}},
    }
    once = step_findings.differences(fits, "1", "1")[:2]
    assert once == [
        "At 1 user the step of vLLM takes 4 ms longer than that of llama.cpp. The largest part of it: not explained.",
        "At 1 user the step of SGLang takes 14 ms longer than that of llama.cpp. The model misses one of the two "
        "steps by more than 20 %, so it does not explain the difference.",
    ]


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
    text = unaligned((own_results / "report.md").read_text())
    line = next(row for row in text.splitlines() if row.startswith("| Inter-token latency"))
    assert line.count("**llama.cpp**, **Ollama**: 2×") == 4


def sections(folder: Path) -> dict[str, str]:
    """The report's text by heading."""
    parts = re.split(r"^## ", (folder / "report.md").read_text(), flags=re.M)
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts[1:]}


ALL_FOUR = {"ollama": 11.0, "llamacpp": 10.0, "vllm": 20.0, "sglang": 25.0}


def test_it_answers_first_and_says_what_a_processor_can_say(own_results: Path) -> None:
    fill(ALL_FOUR)
    build_report("3.3.1")
    found = sections(own_results)
    assert next(iter(found)) == "Which engine for what"
    first = unaligned(found["Which engine for what"])
    assert first.strip().startswith("**Measured on a processor without a GPU.**")
    assert "They do not show which engine is faster on a DGX Spark" in first
    assert "| One person chats | time per output token, 1 user | llama.cpp | 10.2 ms | Ollama: 11.2 ms" in first
    spark = found["And on a DGX Spark?"]
    assert spark.count("| not measurable here |") == 5
    assert "No figure above was measured on a Spark" in spark
    assert "at most 4.9 bits per weight" in spark


def test_every_part_that_was_measured_is_in_it(own_results: Path) -> None:
    fill(ALL_FOUR)
    build_report("3.3.1")
    found = {title: unaligned(text) for title, text in sections(own_results).items()}
    assert list(found) == [
        "Which engine for what",
        "Which engine was ahead",
        "Figures",
        "Why: what a step is made of",
        "What precision buys",
        "Start-up and memory",
        "How these figures could have misled",
        "And on a DGX Spark?",
        "Machine and model",
        "Method",
        "How to repeat it",
        "What this does not show",
    ]
    steps = found["Why: what a step is made of"]
    behind = "At 1 user the step of SGLang takes 15.3 ms longer than that of llama.cpp."
    assert f"{behind} The largest part of it: not explained." in steps
    assert "| Q4_0 | 67.2 | 250 |" in found["What precision buys"]
    assert found["How these figures could have misled"].count("| 9 ms | 1 ms |") == 7
    assert "| llama.cpp | 10 | 0.25 | 1.5 | 1 |" in found["Start-up and memory"]
    assert "limit, tok/s" in found["Figures"]
    assert "Time to first token by prompt length, one user" in found["Figures"]


def test_what_was_not_measured_is_left_out_and_an_engine_says_why(own_results: Path) -> None:
    for users in (1, 4):
        for number in (1, 2):
            record_load(f"load/users-{users}/llamacpp/round-{number}", "llamacpp", users, number, 10)
    results.record("3.3.1", "engine/sglang", {"missing": "SGLang is not installed in ~/x."})
    build_report("3.3.1")
    found = sections(own_results)
    assert "Why: what a step is made of" not in found
    assert "- SGLang took no part: SGLang is not installed in ~/x." in found["Which engine for what"]
    assert "llama.cpp, the only one measured" in found["Which engine for what"]


def test_it_ends_with_the_students_own_conclusion(own_results: Path) -> None:
    fill(ALL_FOUR)
    labs.open("3.3.1").conclude("llama.cpp for one user, because its steps are short.", "load/users-1")
    build_report("3.3.1")
    title, text = list(sections(own_results).items())[-1]
    assert title == "Which engine, and why: a conclusion"
    assert "because its steps are short." in text
    assert "`load/users-1`" in text


def test_engines_that_widened_the_weights_are_named_and_older_ledgers_name_none(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20})
    for dtype in ("float32", None):

        def widen(entry: dict[str, Any], dtype: str | None = dtype) -> None:
            entry["provenance"].pop("dtype", None)
            if dtype and entry["provenance"].get("engine") == "vllm":
                entry["provenance"]["dtype"] = dtype

        change_all(folder_of("3.3.1"), widen)
        build_report("3.3.1")
        text = (own_results / "report.md").read_text()
        assert ("so vLLM widened the weights to float32 when loading" in text) == bool(dtype)
        assert ("| BF16, computed in float32 |" in text) == bool(dtype)


def test_a_report_from_a_spark_does_not_say_that_it_cannot_tell(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20})
    for file in folder_of("3.3.1").glob("*.json"):
        file.write_text(file.read_text().replace('"profile": "cpu"', '"profile": "spark"'))
    build_report("3.3.1")
    text = (own_results / "report.md").read_text()
    for said in ("without a GPU", "not measurable here", "Not verified on hardware", "No figure above was measured"):
        assert said not in text


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
    path = host.browser()
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
            assert page.locator(".plot").count() == FIGURES
            assert page.locator(".plot").first.locator(".scatterlayer .trace").count() == 3  # one is the limit
            assert page.locator(".plot .barlayer .trace").count() == 2 * 3 + 2 + 2
            assert page.locator("figure table").count() == FIGURES
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # no sideways scrolling
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
            assert dark == (scheme == "dark")
            ink = page.locator(".plot .legendtext").first.evaluate("e => getComputedStyle(e).fill")
            assert ink == ("rgb(230, 237, 243)" if dark else "rgb(31, 35, 40)")
            assert problems == []
        browser.close()
    assert len(list(own_results.glob("report-figure-*.png"))) == FIGURES


@pytest.mark.browser
def test_paper_is_white_and_without_a_script_there_are_pictures(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20})
    page_file = build_report("3.3.1")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=host.browser(), args=["--no-sandbox"])
        page = browser.new_page(color_scheme="dark")
        page.goto(page_file.as_uri())
        page.wait_for_selector(".plot .scatterlayer .trace")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        ink = page.locator(".plot .legendtext").first.evaluate("e => getComputedStyle(e).fill")
        assert ink == "rgb(31, 35, 40)"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        plain = browser.new_context(java_script_enabled=False).new_page()
        plain.goto(page_file.as_uri())
        pictures = plain.locator("figure noscript img")
        assert pictures.count() == FIGURES
        assert pictures.first.evaluate("e => e.naturalWidth") == 2 * 760
        browser.close()

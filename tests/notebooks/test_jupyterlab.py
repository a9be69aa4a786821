"""A lab in a real JupyterLab, opened and run in Chromium, as a student does it: its first half and its milestone.

It runs after nbval has run the lab and its solution whole (tests/helpers/nbval_plugin.py), on their engines and from
their results. LABS_PICTURES names a folder for pictures of each screen, to be looked at.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright

from shared import paths
from shared.hardware import host
from shared.processes import free_port, port_taken
from tests.helpers.processes import eventually

pytestmark = [pytest.mark.engine, pytest.mark.browser]

LAB = "lab-3.3.1-engine-benchmark.ipynb"
SCREEN = {"width": 1280, "height": 960}
WITHIN_MS = 600_000
CELLS = nbformat.read(paths.REPO / "labs" / LAB, as_version=4).cells
IDS = [cell.id for cell in CELLS]
HALF, LAST = "lie-cache", "milestone"  # what comes before the one is run, and the other
DRAWN_MS = 60_000  # a cell has ended before JupyterLab has drawn its widget or its plot
RESULTS = os.environ.get("LABS_RESULTS", "")  # of the whole run; a test's own folder replaces it

ERROR = "[data-mime-type='application/vnd.jupyter.stderr']"  # an error's as well as what is written to stderr
# Every cell is in the page, not only those on the screen.
SETTINGS = {"notebook-extension/tracker": '{"windowingMode": "none"}'}


@pytest.fixture
def lab(tmp_path: Path, own_results: Path) -> Iterator[str]:
    """The address of a JupyterLab on a copy of labs/, its engines those of the notebooks."""
    shutil.copytree(paths.REPO / "labs", tmp_path / "labs")
    for name, text in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    port, token = free_port(), secrets.token_hex(8)
    env = {
        **os.environ, "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "LABS_ENGINES_OF": str(os.getpid()),
        "LABS_RESULTS": RESULTS or str(own_results), "LABS_SIZE": "quick",
    }  # fmt: skip
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--ServerApp.ip=127.0.0.1"]
    with (tmp_path / "jupyter.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options],
            cwd=tmp_path / "labs",
            env=env,
            stdout=log,
            stderr=log,
        )
    assert eventually(lambda: port_taken(port), 60), (tmp_path / "jupyter.log").read_text()
    yield f"http://127.0.0.1:{port}/lab/tree/{LAB}?token={token}"
    server.terminate()
    server.wait(30)


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=host.browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport=SCREEN)  # type: ignore[arg-type]
        page.set_default_timeout(DRAWN_MS)  # opening JupyterLab takes long on a busy machine
        yield page
        browser.close()


def run(page: Page, cell: str, menu: str, code_cells: int) -> None:
    """Do what the Run menu says at this cell, until so many cells have run. An error ends the waiting, and is shown."""
    page.locator(".jp-Notebook .jp-Cell").nth(IDS.index(cell)).locator(".jp-InputPrompt").click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile(f"^{menu}")).click()  # a shortcut may follow its name
    try:
        page.wait_for_function(
            """([error, count]) => document.querySelector(error) || count <= [...document.querySelectorAll(
                '.jp-CodeCell .jp-InputPrompt')].filter(p => /^\\[\\d+\\]:$/.test(p.textContent)).length""",
            arg=[ERROR, code_cells],
            timeout=WITHIN_MS,
        )
    except TimeoutError:
        busy = page.locator(".jp-CodeCell").filter(has_text="[*]:").all_inner_texts()[:1]
        pytest.fail(f"not over after {WITHIN_MS // 60_000} minutes; it runs: {busy}")
    assert page.locator(ERROR).all_inner_texts() == []


def test_a_lab_runs_and_can_be_read(lab: str, page: Page) -> None:
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)  # before, a run is silently dropped
    half = sum(cell.cell_type == "code" for cell in CELLS[: IDS.index(HALF)])
    run(page, HALF, "Run All Above Selected Cell", half)
    run(page, LAST, "Run Selected Cell and Do not Advance", half + 1)
    milestone = page.locator(".widget-html").filter(has_text="Milestone 3.3.1")
    expect(milestone).to_contain_text("of 8 claims hold", timeout=DRAWN_MS)
    look_at_every_screen(page)

    assert page.locator(ERROR).all_inner_texts() == []
    assert page.locator(".jp-OutputArea-output").filter(has_text=re.compile(r"Not attempted\.")).count() == 6
    assert "Using the reference solution of pass_floor_ms, because" in page.locator(".jp-Notebook").inner_text()
    assert "(using the reference solution of closed_loop, latencies_ms, output_tok_s)" in milestone.inner_text()
    page.get_by_role("button", name="Check again").click()

    plots = page.locator(".jp-OutputArea .jp-RenderedPlotly")
    expect(plots).to_have_count(6, timeout=DRAWN_MS)
    for plot in plots.all():  # plotly's extension shows the static picture until the mouse comes
        picture = plot.locator("img.plot-img")
        assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") >= 2 * 700
        plot.hover()
        drawn = plot.locator(".main-svg .scatterlayer .trace, .main-svg .barlayer .trace")
        expect(drawn.nth(1)).to_be_attached(timeout=DRAWN_MS)

    callouts = page.locator(".jp-RenderedMarkdown .alert")
    assert callouts.count() >= 8
    colours = {c.evaluate("e => getComputedStyle(e).backgroundColor") for c in callouts.all()}
    assert "rgba(0, 0, 0, 0)" not in colours
    assert len(colours) == 3
    for output in page.locator(".jp-Cell-outputArea").all():
        assert output.bounding_box()["height"] <= SCREEN["height"], output.inner_text()[:200]  # type: ignore[index]


def look_at_every_screen(page: Page) -> None:
    folder = os.environ.get("LABS_PICTURES")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(page.locator(".jp-Notebook .jp-Cell").all()):
        cell.scroll_into_view_if_needed()
        cell.screenshot(path=Path(folder) / f"cell-{number:02d}.png")

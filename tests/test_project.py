"""The pages are true: commands exist, links lead to a target, and notebooks are ready to be published."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest

from shared import paths
from shared.course import registry

NOTEBOOKS = sorted((paths.REPO / "solutions").glob("*.ipynb"))


def tracked() -> list[Path]:
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=paths.REPO, text=True).split("\0")
    return [paths.REPO / name for name in names if name]


def make_help() -> set[str]:
    text = subprocess.check_output(["make"], cwd=paths.REPO, text=True)
    return set(re.findall(r"^  make ([\w-]+) ", text, re.M))


def test_every_make_command_that_is_mentioned_exists() -> None:
    offered = make_help()
    assert {"lab", "report", "test", "check", "bench", "doctor", "engines", "down", "clean", "lock"} <= offered
    for file in tracked():
        if file.suffix in (".md", ".py", ".ipynb", ".sh"):
            for command in re.findall(r"`make (?:[A-Z_]+=\S+ )?([\w-]+)", file.read_text()):
                assert command in offered, f"{file}: make {command}"


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [f for f in tracked() if f.suffix == ".md"]
    assert pages
    for page in pages:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def written(file: Path) -> str:
    """The text of a page, a module or a notebook's cells, without a notebook's outputs."""
    if file.suffix == ".ipynb":
        return "\n".join(cell.source for cell in nbformat.read(file, as_version=4).cells)
    return file.read_text(errors="replace")


def resolves(name: str) -> bool:
    """Whether a name such as `shared.load.client.Trace` is a module, a room, or a name in its module."""
    folder, parts = paths.REPO / "shared", name.split(".")[1:]
    for place, part in enumerate(parts, 1):
        if (folder / part).is_dir():
            folder = folder / part
            continue
        module, rest = folder / f"{part}.py", parts[place:]
        if not module.exists():
            module, rest = folder / "__init__.py", parts[place - 1 :]
        return module.exists() and (not rest or re.search(rf"\b{rest[0]}\b", module.read_text()) is not None)
    return True


def test_files_and_names_that_are_mentioned_exist() -> None:
    """Checks `shared/load/client.py` and `shared.load.client.Trace` in pages, docstrings and notebooks."""
    found = 0
    for file in tracked():
        if file.suffix in (".md", ".py", ".ipynb", ".sh") or file.name == "Makefile":
            text = written(file)
            for name in re.findall(r"\b(?:shared|environment|tests)/[\w/.-]+\.(?:py|toml|md|sh|yaml|txt)\b", text):
                assert (paths.REPO / name).exists(), f"{file}: {name}"
                found += 1
            for name in re.findall(r"(?<![\w./-])shared(?:\.[a-zA-Z]\w*)+", text):
                assert resolves(name), f"{file}: {name}"
                found += 1
    assert found > 500
    assert resolves("shared.load.client.Trace")
    assert not resolves("shared" + ".load.client.Trice")
    assert not resolves("shared" + ".wire")


def test_no_machine_path_is_tracked() -> None:
    for file in tracked():
        if file.suffix != ".png":
            # root's folders in a container are no paths of this machine.
            found = re.search(r"/(root(?!/\.(cache|ollama|\{))|home/\w+|work)/", file.read_text(errors="replace"))
            assert found is None, f"{file}: {found[0]}"


def test_tracked_files_are_small() -> None:
    assert sum(f.stat().st_size for f in tracked()) < 40 * 2**20


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_solution_is_fit_to_be_published(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code: list[Any] = [c for c in notebook.cells if c.cell_type == "code"]
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id), f"{cell.id} is not a name in words"
    for cell in code:
        assert cell.execution_count, f"{cell.id} was not run: make solutions"
        assert all(out.output_type != "error" for out in cell.outputs), cell.id
    figures = [o for c in code for o in c.outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert figures
    assert all("image/png" in o["data"] for o in figures), "GitHub shows only static pictures: run it with Chromium"
    assert all(o["metadata"]["image/png"]["alt"] for o in figures)
    milestone = json.dumps([c.outputs for c in code if c.id == "milestone"])
    [lab] = [lab for lab in registry.LABS.values() if lab.notebook == file.name]
    assert f"{len(lab.claims)} of {len(lab.claims)} claims hold" in milestone
    for cell in code:
        said = "".join(o.get("text", "") for o in cell.outputs)
        assert said.count("\n") <= 40, f"{cell.id} prints more than a screen"


# The look of a callout in JupyterLab, by its first word: colour is never the only signal.
CALLOUTS = {"Predict": "info", "Do": "success", "Measure": "success", "Explain": "info", "Common mistake": "warning"}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_callouts_are_of_one_style(file: Path) -> None:
    texts = [c.source for c in nbformat.read(file, as_version=4).cells if c.cell_type == "markdown"]
    found = re.findall(
        r'^<div class="alert alert-(\w+)">\n\n\*\*([\w ]+)\.\*\* .+?\n\n</div>$', "\n".join(texts), re.M | re.S
    )
    assert {word for _, word in found} == set(CALLOUTS)
    assert all(CALLOUTS[word] == look for look, word in found)
    assert "\n".join(texts).count("<div") == len(found)
    for word in CALLOUTS:
        bare = re.findall(rf"^\*\*{word}\.\*\*", "\n".join(texts), re.M)
        assert len(bare) == sum(word == w for _, w in found), f"{word} outside of a callout"


def test_make_lets_python_keep_what_it_compiled() -> None:
    probe = 'probe: ; @echo "[$$PYTHONDONTWRITEBYTECODE]"'
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(["make", "-s", "--eval", probe, "probe"], cwd=paths.REPO, env=env, capture_output=True)
    assert said.stdout == b"[]\n", said.stderr

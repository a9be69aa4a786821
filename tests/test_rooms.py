"""The rooms of shared/: the map names every file, and no file imports from a room below its own."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import paths

MAP = (paths.REPO / "shared" / "README.md").read_text()
# The rooms in their order, each with the files that the map lists: {"hardware/": ["host.py", ...]}.
ROOMS = {
    "" if name == "shared/" else name: re.findall(r"^\| `([\w/]+\.py)` \|", text, re.M)
    for name, text in re.findall(r"^### `([\w/]+)` —[^\n]*\n(.*?)(?=^### |\Z)", MAP, re.M | re.S)
}
FILES = sorted(file.relative_to(paths.REPO / "shared").as_posix() for file in (paths.REPO / "shared").rglob("*.py"))


def room_of(file: str) -> str:
    """The room of a file below shared/: the longest whose name it begins with."""
    return max((room for room in ROOMS if file.startswith(room)), key=len)


def lab_of(room: str) -> str:
    """course/grading/ or the room of a lab that this room is, or is in: none of them knows another. Else ""."""
    return "/".join(room.split("/")[:2]) if room.count("/") > 1 else ""


def imported(file: str) -> Iterator[str]:
    """Every file of shared/ that this one imports, wherever in it; of a package its __init__.py."""
    for node in ast.walk(ast.parse((paths.REPO / "shared" / file).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "shared":
                yield target_of(name)


def target_of(name: str) -> str:
    """The file of shared/ that is the module of this name, or holds it."""
    for end in range(len(parts := name.split(".")[1:]), 0, -1):
        path = "/".join(parts[:end])
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if file in FILES:
                return file
    return "__init__.py"


def breaches(file: str) -> list[str]:
    order = list(ROOMS)
    own, found = room_of(file), []
    for other in imported(file):
        room = room_of(other)
        labs = {lab_of(room), lab_of(own)} - {""}
        if order.index(room) > order.index(own) or len(labs) == 2:
            found.append(f"shared/{file} imports shared/{other}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_its_room_and_from_those_above(file: str) -> None:
    assert breaches(file) == []


def test_the_map_lists_every_file_and_no_other() -> None:
    listed = [room + file for room, files in ROOMS.items() for file in files]
    assert len(listed) == len(set(listed))
    assert set(listed) == {file for file in FILES if not file.endswith("__init__.py")}


def test_files_in_the_walk_exist() -> None:
    for file in re.findall(r"`([\w/]+/\w+\.py)`", MAP):
        assert file in FILES or any((paths.REPO / "shared" / room / file).exists() for room in ROOMS), file


def test_rooms_are_small_enough_to_be_known_from_a_listing() -> None:
    for room, files in ROOMS.items():
        assert len(files) <= 11, room
    for file in FILES:
        assert len((paths.REPO / "shared" / file).read_text().splitlines()) <= 300, file


def test_an_upward_import_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "hardware"
    folder.mkdir(parents=True)
    (folder / "gpu.py").write_text("def f():\n    from shared.report.plots import show\n    return show\n")
    monkeypatch.setattr(paths, "REPO", tmp_path)
    assert breaches("hardware/gpu.py") == ["shared/hardware/gpu.py imports shared/report/plots.py"]
    (folder / "gpu.py").write_text("import shared.errors\nfrom shared import paths\n")
    assert breaches("hardware/gpu.py") == []


def test_an_import_from_another_lab_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also one in a room within the lab's room, and also from a lab that stands earlier on the map."""
    folder = tmp_path / "shared" / "course" / "speculation" / "eagle3"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "REPO", tmp_path)
    file = "course/speculation/eagle3/head.py"
    (tmp_path / "shared" / file).write_text("from shared.course.prefill.exercises import EXERCISES\n")
    assert breaches(file) == [f"shared/{file} imports shared/course/prefill/exercises/__init__.py"]
    (tmp_path / "shared" / file).write_text("from shared.course.speculation.eagle3 import training_text\n")
    assert breaches(file) == []


def test_only_what_computes_with_torch_loads_it() -> None:
    faces = "from shared import hardware, load, metrics, models, results; import shared.course.registry"
    code = f"{faces}; import sys; print('torch' in sys.modules, 'plotly' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=paths.REPO, text=True) == "False False\n"

"""Every name and argument that a notebook uses exists in the package: mypy reads its code cells.

A renamed constant would otherwise be found when the notebook runs, an hour later.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat

from shared import paths


def errors(folder: Path, notebooks: dict[str, list[str]]) -> list[str]:
    """mypy's errors in the code cells of notebooks (name -> cells), each as "name, cell 3: message"."""
    modules = folder / "notebooks"
    modules.mkdir()
    starts: dict[str, list[int]] = {}
    for name, cells in notebooks.items():
        lines: list[str] = []
        for source in cells:
            starts.setdefault(name, []).append(len(lines) + 1)
            lines += source.splitlines()
        (modules / f"{name}.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, modules.iterdir())]
    env = {**os.environ, "MYPYPATH": str(folder)}
    done = subprocess.run(command, cwd=paths.REPO, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^.*?(\w+)\.py:(\d+): error: (.*)", done.stdout, re.M)
    assert bool(found) == bool(done.returncode), done.stdout
    return [f"{n}, cell {sum(s <= int(line) for s in starts[n])}: {message}" for n, line, message in found]


def test_notebooks_use_only_what_exists(tmp_path: Path) -> None:
    notebooks = {}
    for file in sorted((paths.REPO / "solutions").glob("lab-*.ipynb")):
        cells = nbformat.read(file, as_version=4).cells
        notebooks[re.sub(r"\W", "_", file.stem)] = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(notebooks) == 6
    found = errors(tmp_path, notebooks)
    assert found == [], "\n".join(found)


def test_what_does_not_exist_is_found(tmp_path: Path) -> None:
    cells = [
        "from shared.launch import memory\nprint(memory.SPARK_RESERVE_GIB)",
        "print(memory.RESERVE_GIB)",
        "from shared.launch import no_such_name",
        "from shared import no_such_module",
        "def wrong():\n    return memory.Need(no_such_argument=1)",
        "print(no_such_variable)",
        "memory = {}  # a cell above that is run again would find this instead of the module",
    ]
    found = errors(tmp_path, {"wrong": cells})
    assert [re.search(r"cell (\d)", one).group(1) for one in found] == ["2", "3", "4", "5", "6", "7"]

"""Two ledgers side by side, as `make compare` shows them."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared import LabError, results
from shared.course.benchmark.claims import USERS
from shared.course.own_words import record_guesses
from shared.report.compare import side, side_by_side
from tests.helpers.ledger import LENGTHS, change_all, fill


def ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: dict[str, float], b: dict[str, float]) -> list[Path]:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, gaps in zip(folders, (a, b), strict=True):
        monkeypatch.setenv("LABS_RESULTS", str(folder))
        fill(gaps, rounds=5)
    return folders


def shown(a: Path, b: Path) -> str:
    return "\n".join(f"{s.title}\n{s.text}" for s in side_by_side(side("A", a), side("B", b)))


def test_a_faster_machine_is_told_with_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = ledgers(tmp_path, monkeypatch, {"vllm": 40, "sglang": 20}, {"vllm": 10, "sglang": 20.1})
    text = shown(a, b)
    itl = text[text.index("Inter-token latency") :]
    rows = [line for line in itl.splitlines() if line.startswith("| vLLM")]
    assert len(rows) == len(USERS) + len(LENGTHS)
    assert all("| 0.25×" in row and "n=5" in row for row in rows)
    assert all("no clear difference" in line for line in itl.splitlines() if line.startswith("| SGLang"))
    assert "A's engines: SGLang 1.0, llama.cpp 1.0, vLLM 1.0" in text
    assert "- A ran on " in text


def test_what_only_one_side_has_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = ledgers(tmp_path, monkeypatch, {"vllm": 40, "ollama": 30}, {"vllm": 40})
    text = shown(a, b)
    assert "only in A: 3.3.1: load/users-4/ollama" in text
    assert "| Ollama" not in text


def test_other_flags_are_marked_and_not_silently_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = ledgers(tmp_path, monkeypatch, {"vllm": 40}, {"vllm": 20})
    change_all(b / "3.3.1", lambda entry: entry["provenance"].update(precision="Q4_0"))
    text = shown(a, b)
    assert "precision BF16 in A, Q4_0 in B" in text
    assert all("[1]" in line for line in text.splitlines() if line.startswith("| vLLM"))


def test_guesses_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = ledgers(tmp_path, monkeypatch, {"vllm": 40}, {"vllm": 20})
    before = shown(a, b)
    for folder, guess in ((a, 8), (b, 2)):
        monkeypatch.setenv("LABS_RESULTS", str(folder))
        record_guesses("3.3.1", {"growth": guess})
        record_guesses("3.3.2", {"growth": guess})
    key = "load/users-4/vllm/round-9"  # even if it looks like a load
    results.record("3.3.1", key, {"output_tok_s": 8, "users": 4}, kind="guessed")
    assert shown(a, b) == before
    change_all(a / "3.3.1", lambda entry: entry.update(kind="guessed"))
    with pytest.raises(LabError, match="holds no results"):
        side("A", a)


def test_a_folder_without_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"holds no results.*\nFix: name a results folder"):
        side("A", tmp_path)


def test_the_command_prints_and_writes_a_page_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = ledgers(tmp_path, monkeypatch, {"vllm": 40}, {"vllm": 20})
    change_all(b / "3.3.1", lambda entry: entry["provenance"].update(processor="<script>alert(1)</script>"))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.json*")}
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "shared.report.compare", str(a), str(b), "--html", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0.5×" in done.stdout
    assert "<script>alert" not in page.read_text().split("</style>")[1].split("<script>")[0]
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.json*")}
    wrong = subprocess.run([*command[:3], str(a), str(tmp_path / "none")], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "holds no results" in wrong.stderr


def test_an_index_of_an_older_version_is_named_and_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = ledgers(tmp_path, monkeypatch, {"vllm": 40}, {"vllm": 20})
    (b / "3.3.1").rename(b / "3.3.1.gone")
    (b / "3.3.1.json").write_text("{}")
    with pytest.raises(LabError, match=r"3\.3\.1\.json was written by an older version of these labs"):
        shown(a, b)

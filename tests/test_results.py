"""Nothing measured is lost: not to a killed writer, a torn file, a full disk, or a second notebook."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ledger import fill

from shared import LabError, results


def test_an_entry_says_where_it_comes_from() -> None:
    entry = results.record("3.3.1", "a/b", {"x": 1}, raw=[1, 2])
    assert entry["kind"] == "measured"
    for name in ("time", "host", "profile", "processor", "git_commit", "git_dirty", "size"):
        assert name in entry["provenance"]
    assert results.load_results("3.3.1") == {"a/b": entry}
    assert results.load_raw("3.3.1", "a/b") == [1, 2]


def test_a_made_up_kind_is_refused() -> None:
    with pytest.raises(LabError, match="not a kind of result"):
        results.record("3.3.1", "a", {"x": 1}, kind="estimated")
    assert results.record("3.3.1", "a", {"x": 1}, kind="quoted: NVIDIA, 2026-07-01")["kind"].startswith("quoted")


@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b'{"a/b": {"schema": 1, "key"', b"[]", b'{"a": 3}'])
def test_a_torn_ledger_is_made_again_from_the_raw_files(
    damage: bytes, own_results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [results.record("3.3.1", key, {"x": key}) for key in ("a/b", "c")]
    results.ledger_file("3.3.1").write_bytes(damage)
    assert results.load_results("3.3.1") == {e["key"]: e for e in before}
    assert "lacks were read from the raw files" in capsys.readouterr().out
    assert results.ledger_file("3.3.1").read_bytes() == damage  # reading changes nothing
    results.record("3.3.1", "d", {"x": "d"})
    [aside] = own_results.glob("3.3.1.json.torn-*")
    assert aside.read_bytes() == damage
    assert set(results.load_results("3.3.1")) == {"a/b", "c", "d"}


def test_a_torn_raw_file_costs_only_itself() -> None:
    for key in ("a", "b"):
        results.record("3.3.1", key, {"x": 1}, raw=[key])
    results.raw_file("3.3.1", "a").write_bytes(b"\0" * 100)
    results.ledger_file("3.3.1").write_bytes(b"\0" * 100)
    assert set(results.load_results("3.3.1")) == {"b"}
    assert results.load_raw("3.3.1", "b") == ["b"]
    with pytest.raises(LabError, match=r"missing or torn.*\nFix: run the cell"):
        results.load_raw("3.3.1", "a")


def test_one_results_raw_data_is_not_taken_for_anothers() -> None:
    for key in ("a", "b"):
        results.record("3.3.1", key, {"x": 1}, raw=[key])
    results.raw_file("3.3.1", "b").write_bytes(results.raw_file("3.3.1", "a").read_bytes())
    with pytest.raises(LabError, match="holds another result"):
        results.load_raw("3.3.1", "b")


WRITER = """
import sys
from shared import results
number = 0
while True:
    results.record("3.3.1", f"k{number % 3}", {"x": number}, raw=["y" * 100_000])
    number += 1
    print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_ledger(own_results: Path) -> None:
    for after in (1, 2, 3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, env={**os.environ})
        assert writer.stdout
        for _ in range(after):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        ledger = json.loads(results.ledger_file("3.3.1").read_bytes())
        assert ledger
        assert {entry["key"] for entry in ledger.values()} == set(ledger)
    assert not list(own_results.glob("*.torn-*"))


def test_a_full_disk_is_said_and_harms_nothing(own_results: Path) -> None:
    first = results.record("3.3.1", "a", {"x": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the kernel ends the process
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # "File too large" in place of "No space left"
        with pytest.raises(LabError, match=r"can't be written.*\nFix: free some space"):
            results.record("3.3.1", "b", {"x": 1}, raw=os.urandom(50_000).hex())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert results.load_results("3.3.1") == {"a": first}
    assert not [f for f in own_results.rglob(".*") if "lock" not in f.name]


def _many(start: int) -> None:
    for number in range(start, start + 10):
        results.record("3.3.1", f"k{number}", {"x": number})


def test_two_notebooks_lose_none_of_each_others_entries() -> None:
    both = [multiprocessing.get_context("spawn").Process(target=_many, args=[s]) for s in (0, 100)]
    for p in both:
        p.start()
    for p in both:
        p.join()
    assert len(results.load_results("3.3.1")) == 20


def test_an_old_series_is_set_aside_whole(own_results: Path) -> None:
    fill({"llamacpp": 10, "vllm": 20}, rounds=1)
    count = len(results.load_results("3.3.1"))
    results.set_aside("3.3.1", "load/")
    assert set(results.load_results("3.3.1")) == {"greedy/llamacpp", "greedy/vllm"}
    [old] = own_results.glob("3.3.1.before-*.json")
    kept = json.loads(old.read_text())
    assert len(kept) == count - 2
    assert len(list(old.with_suffix("").glob("*.json.gz"))) == len(kept)
    results.set_aside("3.3.1", "load/")  # nothing there: nothing to do
    assert len(list(own_results.glob("3.3.1.before-*.json"))) == 1

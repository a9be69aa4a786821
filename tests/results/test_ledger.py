"""No result is lost to a killed writer, a torn file, a full disk or a second notebook."""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import LabError, metrics, results
from shared.load import Run, Trace
from shared.results import packing
from shared.results.ledger import entry_file, raw_file, reusable
from shared.results.reading import read_ledger
from tests.helpers.ledger import WRITER, fill, provenance


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


@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b'{"schema": 3, "key": "a', b"[]", b'{"a": 3}'])
def test_a_torn_entry_costs_only_itself(damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    results.record("3.3.1", "a/b", {"x": 1})
    other = results.record("3.3.1", "c", {"x": 2})
    entry_file("3.3.1", "a/b").write_bytes(damage)
    assert results.load_results("3.3.1") == {"c": other}
    assert "3.3.1/a--b.json is torn or not a result: run the cell" in capsys.readouterr().out
    assert entry_file("3.3.1", "a/b").read_bytes() == damage  # reading changes nothing
    again = results.record("3.3.1", "a/b", {"x": 3})
    assert results.load_results("3.3.1") == {"a/b": again, "c": other}


def test_a_torn_raw_file_costs_only_itself() -> None:
    for key in ("a", "b"):
        results.record("3.3.1", key, {"x": 1}, raw=[key])
    raw_file("3.3.1", "a").write_bytes(b"\0" * 100)
    assert results.load_raw("3.3.1", "b") == ["b"]
    with pytest.raises(LabError, match=r"missing or torn.*\nFix: run the cell"):
        results.load_raw("3.3.1", "a")
    assert reusable("3.3.1", "a", {}) is None
    assert set(results.load_results("3.3.1")) == {"b"}  # without its raw data it was set aside


def test_one_results_raw_data_is_not_taken_for_anothers() -> None:
    for key in ("a", "b"):
        results.record("3.3.1", key, {"x": 1}, raw=[key])
    raw_file("3.3.1", "b").write_bytes(raw_file("3.3.1", "a").read_bytes())
    with pytest.raises(LabError, match="holds another result"):
        results.load_raw("3.3.1", "b")


def test_a_writer_killed_at_any_moment_leaves_a_whole_ledger(own_results: Path) -> None:
    for after in (1, 2, 3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, env={**os.environ})
        assert writer.stdout
        for _ in range(after):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        written = list((own_results / "3.3.1").glob("*.json"))
        assert written
        assert len(results.load_results("3.3.1")) == len(written)  # none is torn


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
    all_keys = set(results.load_results("3.3.1"))
    loads = {key for key in all_keys if key.startswith("load/")}
    assert 0 < len(loads) < len(all_keys)
    results.set_aside("3.3.1", "load/")
    assert set(results.load_results("3.3.1")) == all_keys - loads
    [old] = own_results.glob("3.3.1.before-*")
    assert set(read_ledger(old).entries) == loads
    assert len(list(old.glob("*.json.gz"))) == len(loads)
    results.set_aside("3.3.1", "load/")  # nothing there: nothing to do
    assert len(list(own_results.glob("3.3.1.before-*"))) == 1


def test_an_entry_cut_off_anywhere_is_torn_or_whole() -> None:
    before = {key: results.record("3.3.1", key, {"x": key}) for key in ("a/b", "c")}
    whole = entry_file("3.3.1", "a/b").read_bytes()
    for length in range(len(whole) + 1):
        entry_file("3.3.1", "a/b").write_bytes(whole[:length])
        expected = before if length == len(whole) else {"c": before["c"]}
        assert results.load_results("3.3.1") == expected, length


def nested(levels: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for _ in range(levels):
        found = {"in": found}
    return found


def test_what_a_hostile_entry_holds_is_named_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    good = results.record("3.3.1", "a", {"x": 1})
    for number, poison in enumerate(
        (
            '{"deep": ' + "[" * 100_000 + "]" * 100_000 + "}",
            '{"n": ' + "9" * 5000 + "}",
            '{"schema": true}',
            entry_file("3.3.1", "a").read_text(),  # of another key
            json.dumps({**good, "key": "b4", "values": nested(800)}),  # it can be read, but not written again
        )
    ):
        entry_file("3.3.1", f"b{number}").write_text(poison)
    entry_file("3.3.1", "c").write_text(json.dumps(deep := {**good, "key": "c", "values": nested(50)}))
    assert results.load_results("3.3.1") == {"a": good, "c": deep}
    out = capsys.readouterr().out
    assert "b0.json is torn or not a result" in out
    assert "has 2 more files that are torn or not results" in out


def test_results_of_a_newer_version_are_not_touched() -> None:
    entry = results.record("3.3.1", "a", {"x": 1})
    file = entry_file("3.3.1", "a")
    file.write_text(json.dumps({**entry, "schema": 99}))
    before = file.read_bytes()
    for act in (lambda: results.load_results("3.3.1"), lambda: results.record("3.3.1", "b", {"x": 2})):
        with pytest.raises(LabError, match=r"has schema 99, but these labs read 3 at most.\nFix: git pull"):
            act()
    assert file.read_bytes() == before


def test_the_index_of_an_older_version_makes_room_and_is_kept(
    own_results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before schema 3 all results of a lab were in one file beside the folder."""
    index, raw = own_results / "3.3.1.json", raw_file("3.3.1", "load/old")
    raw.parent.mkdir(parents=True)
    index.write_text('{"load/old": {"schema": 2}}')
    raw.write_bytes(b"raw data of an older version")
    assert results.load_results("3.3.1") == {}
    assert "3.3.1.json was written by an older version of these labs" in capsys.readouterr().out
    assert index.exists()  # reading changes nothing
    new = results.record("3.3.1", "load/new", {"x": 2})
    [aside] = own_results.glob("3.3.1.older-version-*")
    assert {file.name for file in aside.iterdir()} == {"3.3.1.json", "load--old.json.gz"}
    assert "results are kept in " in capsys.readouterr().out
    assert results.load_results("3.3.1") == {"load/new": new}
    assert results.load_raw("3.3.1", "load/new") is None


def test_kinds_are_never_mixed_unasked() -> None:
    results.record("3.3.1", "load/a", {"x": 1})
    results.record("3.3.1", "load/b", {"x": 2}, kind="quoted: NVIDIA's blog, 2026-07-01")
    results.record("3.3.1", "load/c", {"x": 3}, kind="simulated")
    assert set(results.load_results("3.3.1")) == {"load/a"}
    assert set(results.load_results("3.3.1", "quoted")) == {"load/b"}
    assert set(results.load_results("3.3.1", None)) == {"load/a", "load/b", "load/c"}
    assert "processor" not in results.load_results("3.3.1", "quoted")["load/b"]["provenance"]
    for kind in ("quoted: no date", "quoted: , 2026", "measured today"):
        with pytest.raises(LabError, match="is not a kind of result"):
            results.record("3.3.1", "d", {"x": 1}, kind=kind)


def realistic(number: int) -> Trace:
    """A chat of 64 tokens as a client sees it: irregular timestamps, a block for each chunk, words as text."""
    source = random.Random(number)
    now = 28_699_010_603_953 + number * 1_234_567_890
    sent = now
    blocks = []
    for _ in range(66):
        now += int(source.gauss(2.2e7, 2e6))
        blocks.append(now)
    words = tuple(source.choice(["the", " of", " gravity", " mountain", "s", "."]) for _ in range(64))
    return Trace(
        sent,
        tuple(blocks[1:65]),
        words,
        blocks[-1],
        41,
        64,
        0,
        "length",
        None,
        "usage",
        blocks_ns=tuple(blocks),
        blocks_bytes=tuple(source.randint(190, 230) for _ in blocks),
        first_choice_ns=blocks[0],
        last_choice_ns=blocks[-1],
    )


def test_packed_traces_come_back_to_the_nanosecond_and_are_small(own_results: Path) -> None:
    traces = tuple(realistic(n) for n in range(32))
    assert [Trace.restore(plain) for plain in packing.unpack(packing.pack(traces))] == list(traces)
    run = Run(traces, 16, 64, "short", provenance("vllm"), 0.01)
    results.record("3.3.1", "load/x", metrics.summarise(run))
    assert [Trace.restore(plain) for plain in results.load_raw("3.3.1", "load/x")] == list(traces)
    assert raw_file("3.3.1", "load/x").stat().st_size / (32 * 64) < 10  # bytes a token


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A results folder on a disk of 128 KiB; where that can't be mounted, files of at most 2000 bytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    monkeypatch.setenv("LABS_RESULTS", str(folder))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_what_was_there(small_disk: Path) -> None:
    written = {}

    def until_full() -> None:
        for number in range(200):
            key = f"k{number}"
            written[key] = results.record("3.3.1", key, {"x": number}, raw=os.urandom(1000).hex())

    with pytest.raises(LabError, match=r"The result k\d+ can't be written: .*\nFix: free some space") as error:
        until_full()
    assert results.load_results("3.3.1") == written
    assert "files written earlier are intact" in str(error.value)
    assert not [file for file in small_disk.rglob(".*") if "lock" not in file.name]  # no half file is left

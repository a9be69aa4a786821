"""The hash of a file: read once, and again whenever the file may have changed."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from shared.models import weights


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "JUST_CHANGED_S", -1)  # the file counts as an old one
    file = tmp_path / "weights"
    file.write_bytes(b"first")
    digest, read = hashlib.file_digest, []
    monkeypatch.setattr(weights.hashlib, "file_digest", lambda f, name: read.append(f.name) or digest(f, name))
    assert weights.sha256(file) == weights.sha256(file) == hashlib.sha256(b"first").hexdigest()
    assert len(read) == 1

    before = file.stat()
    time.sleep(0.05)
    file.write_bytes(b"other")  # as long as the first, and it gets the same time
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.sha256(file) == hashlib.sha256(b"other").hexdigest()
    assert len(read) == 2


def test_a_file_that_has_just_changed_is_always_read(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    for number in range(200):  # many within one tick of the file system's clock
        content = f"{number:04}".encode()
        file.write_bytes(content)
        assert weights.sha256(file) == hashlib.sha256(content).hexdigest()

"""Which Ollama is used: an installed one that is new enough, else our own build."""

from pathlib import Path

import pytest

from environment.engines.ollama import recipe


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("ollama version is 0.33.0", "0.33.0"),
        ("ollama version is 0.30.1-rc2", "0.30.1-rc2"),
        ("Warning: could not connect to a running Ollama instance\nWarning: client version is 1.2.0", "1.2.0"),
        ("ollama version is 0.24.0\nWarning: client version is 0.33.0", "0.33.0"),  # an old server still runs
        ("ollama version is 0.33.0\nWarning: client version is 0.24.0", None),
        ("ollama version is 0.24.0", None),  # its engine is compiled in
        ("something else", None),
    ],
)
def test_an_installed_ollama_is_taken_if_it_is_young_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, version: str | None
) -> None:
    program = tmp_path / "ollama"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert recipe.installed() == ((program, version) if version else None)


def test_one_that_does_not_run_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert recipe.installed() is None
    (tmp_path / "ollama").write_text("no program")
    (tmp_path / "ollama").chmod(0o755)
    assert recipe.installed() is None

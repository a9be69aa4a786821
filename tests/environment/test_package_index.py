"""Settings of pip, from its variables and its configuration files, as settings of uv."""

import subprocess
import sys
from pathlib import Path

import pytest

from environment.package_index import NAMES, for_uv
from shared import paths

CONFIGURATION = """
[global]
index-url = https://global.example/simple
extra-index-url = https://one.example/simple
    https://two.example/simple
trusted-host = mirror.example
cert = /etc/the company's.pem
[install]
index-url = https://user:pass@install.example/simple
find-links = /opt/one /opt/two
[download]
index-url = https://download.example/simple
"""


@pytest.fixture(autouse=True)
def only_this_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip's other files are switched off by XDG variables and HOME, except a global one that the machine may have."""
    for setting in NAMES:
        monkeypatch.delenv("PIP_" + setting.upper().replace("-", "_"), raising=False)
    for name, _ in NAMES.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "pip.conf"
    file.write_text(CONFIGURATION)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    return file


def test_what_stands_in_a_file_is_handed_on() -> None:
    assert for_uv() == {
        "UV_DEFAULT_INDEX": "https://user:pass@install.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/opt/one,/opt/two",
        "UV_INSECURE_HOST": "mirror.example",
        "SSL_CERT_FILE": "/etc/the company's.pem",
    }


def test_a_variable_of_pip_comes_before_a_file_and_one_of_uv_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example/simple")
    monkeypatch.setenv("UV_FIND_LINKS", "/own")
    found = for_uv()
    assert found["UV_DEFAULT_INDEX"] == "https://variable.example/simple"
    assert "UV_FIND_LINKS" not in found


def test_without_settings_nothing_changes(only_this_configuration: Path) -> None:
    only_this_configuration.write_text("[global]\ntimeout = 60\nindex-url =\n")
    assert {"UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_STRATEGY", "UV_FIND_LINKS"}.isdisjoint(for_uv())


def test_a_shell_can_read_it_and_uv_knows_every_variable() -> None:
    script = f'eval "$({sys.executable} environment/package_index.py)" && env'
    done = subprocess.run(["sh", "-c", script], cwd=paths.REPO, capture_output=True, text=True, check=True)
    for name, value in for_uv().items():
        assert f"{name}={value}" in done.stdout.splitlines()
    uv = str(paths.REPO / ".venv" / "bin" / "uv")
    known = subprocess.run([uv, "pip", "install", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in known for name, _ in NAMES.values() if name.startswith("UV_") and name != "UV_INDEX")

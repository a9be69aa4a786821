"""How tests get Prometheus and nginx: from the PATH, or out of a package without root, or an error with its fix."""

import stat
from pathlib import Path

import pytest

from environment import debian_programs
from shared import LabError, paths


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, with an empty cache beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(debian_programs, "SBIN", str(tmp_path / "sbin"))
    return folder


def program(folder: Path, name: str, does: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{does}\n")
    (folder / name).chmod(stat.S_IRWXU)
    return folder / name


def with_packages(bin_: Path, **holds: str) -> Path:
    """An apt-get and a dpkg. A package of `holds` contains the program of this path; there are no others."""
    known = "".join(f'{name}) echo "{path}" > {name}.deb ;; ' for name, path in holds.items())
    asked = bin_.parent / "asked"
    download = f'for last; do :; done; case "$last" in {known} *) echo "E: no $last" >&2; exit 100 ;; esac'
    program(bin_, "apt-get", f'echo "$*" >> {asked}\ncase "$*" in *" update") exit 100 ;; *) {download} ;; esac')
    unpack = "/bin/mkdir -p $3/usr/bin $3/usr/sbin; read path < $2; printf '#!/bin/sh\\necho 1\\n' > $3/$path"
    program(bin_, "dpkg", f"{unpack}; /bin/chmod +x $3/$path")
    return asked


def test_one_on_the_path_is_taken_as_it_is(bin_: Path) -> None:
    asked = with_packages(bin_)
    own = program(bin_, "nginx", "echo nginx 1")
    assert debian_programs.ensure("nginx") == own
    assert not asked.exists()


def test_a_package_is_unpacked_into_the_cache_once(bin_: Path) -> None:
    asked = with_packages(bin_, prometheus="usr/bin/promtool")
    found = debian_programs.ensure("promtool")
    assert found == paths.cache() / "tools" / "debian" / "usr" / "bin" / "promtool"
    assert debian_programs.ensure("promtool") == found
    commands = asked.read_text().splitlines()
    assert [line.split()[-1] for line in commands] == ["update", "prometheus"]
    assert all(f"Dir::State::Lists={paths.cache()}" in line for line in commands), "the system's lists stay as they are"
    assert not any(word in line for line in commands for word in ("install", "sudo"))
    assert [one.name for one in found.parents[3].iterdir() if "download" in one.name] == []


def test_the_next_package_is_tried_where_the_first_does_not_hold_it(bin_: Path) -> None:
    with_packages(bin_, nginx="usr/bin/other", **{"nginx-light": "usr/sbin/nginx"})
    assert debian_programs.ensure("nginx").parts[-3:] == ("usr", "sbin", "nginx")


def test_where_none_can_be_had_it_names_the_package(bin_: Path) -> None:
    with pytest.raises(LabError, match="this machine has no apt-get") as refused:
        debian_programs.ensure("prometheus")
    assert "sudo apt install prometheus" in str(refused.value)
    with_packages(bin_)
    with pytest.raises(LabError, match="E: no prometheus"):
        debian_programs.ensure("prometheus")


def test_one_that_does_not_start_is_named(bin_: Path) -> None:
    program(bin_, "nginx", "echo 'libpcre2-8.so.0: cannot open' >&2; exit 127")
    with pytest.raises(LabError, match=r"does not start: libpcre2-8\.so\.0: cannot open"):
        debian_programs.ensure("nginx")

"""Find or fetch programs that only the tests of monitoring and operation need: Prometheus, nginx, openssl.

A program on the PATH is taken. Otherwise the package of this machine's Debian or Ubuntu is downloaded, checked by apt
and unpacked into the cache. This needs no root, starts no service and installs nothing system-wide. Where a program
can't be had, the test that needs it fails and names it, because a skipped test proves nothing.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared import LabError, files, paths

LIMIT_S = 300
SBIN = "/usr/sbin"  # a user's PATH lacks it


@dataclass(frozen=True)
class Source:
    """Where a program comes from: its packages, in the order in which they are tried, and what prints its version."""

    packages: tuple[str, ...]
    version: str


PROGRAMS = {
    "prometheus": Source(("prometheus",), "--version"),
    "promtool": Source(("prometheus",), "--version"),
    # In Debian and in Ubuntu since 24.04 the server is in nginx, in older releases of Ubuntu in nginx-light.
    "nginx": Source(("nginx", "nginx-light"), "-v"),
    "openssl": Source(("openssl",), "version"),
}


def unpacked() -> Path:
    """Where packages are unpacked (`make clean` removes it)."""
    return paths.cache() / "tools" / "debian"


def find(program: str) -> Path | None:
    """The program on the PATH or in /usr/sbin, or unpacked earlier; None if there is none."""
    places = (os.environ.get("PATH", ""), SBIN, f"{unpacked()}/usr/bin", f"{unpacked()}/usr/sbin")
    found = shutil.which(program, path=os.pathsep.join(places))
    return Path(found) if found else None


def ensure(program: str) -> Path:
    """The path of this program, fetched if it is absent. Raises LabError if it can't be had or does not start."""
    source, failures = PROGRAMS[program], ""
    fix = f"sudo apt install {source.packages[-1]}, or put {program} on the PATH; then run the same command again"
    with files.exclusive(unpacked().with_suffix(".lock"), f"Another program is fetching {program} ..."):
        found = find(program)
        for package in source.packages:
            if found is None:
                failures = fetch(package)
                found = find(program)
    if found is None:
        why = failures or f"it is not in {', '.join(source.packages)}"
        raise LabError(f"The tests need {program}. It is not on the PATH and could not be fetched: {why}.", fix)
    said = subprocess.run([found, source.version], capture_output=True, text=True)
    if said.returncode:
        raise LabError(f"{paths.show(found)} does not start: {said.stderr.strip()[-300:]}", fix)
    return found


def fetch(package: str) -> str:
    """Download a package and unpack it. Returns why that failed, or an empty text."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return "this machine has no apt-get"
    print(f"Fetching the package {package} into {paths.show(unpacked())} ...", flush=True)
    work = unpacked().with_name("debian-download")
    shutil.rmtree(work, ignore_errors=True)
    for needed in ("lists/partial", "cache/archives/partial"):
        (work / needed).mkdir(parents=True)
    # With lists of its own, apt needs no root and leaves the system's as they are. Without the third option, root's apt
    # downloads as another user, who may not read this folder.
    apt = ["apt-get", "-qq", "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
    apt += ["-o", "APT::Sandbox::User=root"]
    run = partial(subprocess.run, cwd=work, capture_output=True, text=True, timeout=LIMIT_S)
    try:
        # One broken repository of many fails the update, and may not matter. So only the download is checked.
        run([*apt, "update"])
        run([*apt, "download", package], check=True)
        for archive in work.glob("*.deb"):
            run(["dpkg", "-x", archive, unpacked()], check=True)
    except subprocess.CalledProcessError as e:
        return " ".join(e.stderr.split())[-300:] or f"{e.cmd[0]} failed"
    except subprocess.TimeoutExpired:
        return f"no download of {package} within {LIMIT_S} s"
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ""

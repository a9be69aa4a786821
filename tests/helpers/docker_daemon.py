"""A real Docker daemon for tests, with data, socket, network and runtime of its own, and a registry beside it.

It needs root. Debian's packages are unpacked into the cache (environment/debian_programs.py), so nothing is installed
system-wide. The daemon sets no firewall rule, and its network is removed with it. It ends by its process id, and if the
tests are killed its watchdog ends it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from environment import debian_programs
from shared import LabError
from shared.launch.process import Guarded
from shared.processes import free_port
from tests.helpers.processes import eventually

PROGRAMS = ("docker", "dockerd", "containerd", "runc", "docker-registry")
BRIDGE, ADDRESS = "labs-test0", "172.31.250.1/24"
STARTS_WITHIN_S = 20
# A virtual machine without CAP_SYS_RESOURCE can't raise a limit, and docker is asked to. On a Spark it may.
RUNTIME = """#!{python} -IS
import json, os, resource, sys
words = sys.argv[1:]
if "create" in words and "--bundle" in words:
    file = words[words.index("--bundle") + 1] + "/config.json"
    settings = json.load(open(file))
    for limit in settings["process"].get("rlimits") or []:
        highest = resource.getrlimit(getattr(resource, limit["type"]))[1] % 2**64
        limit["hard"], limit["soft"] = min(limit["hard"], highest), min(limit["soft"], highest)
    json.dump(settings, open(file, "w"))
os.execv("{runc}", ["runc", *words])
"""
# The registry of the tests speaks plain HTTP. The daemon allows that on 127.0.0.1, this command only if it is told.
CLIENT = """#!/bin/sh
if [ "$1 $2" = "manifest inspect" ]; then shift 2; set -- manifest inspect --insecure "$@"; fi
exec {docker} "$@"
"""
MANIFEST, INDEX = (f"application/vnd.docker.distribution.manifest.{kind}v2+json" for kind in ("", "list."))


class CannotStart(Exception):
    """This machine lacks what a Docker daemon needs."""


class Daemon:
    """A running daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.host = folder, folder / "bin", f"unix://{folder}/docker.sock"
        self.programs: dict[str, Path] = {}

    def docker(self, *words: str) -> str:
        """The output of a docker command that must work."""
        command = [self.bin / "docker", *words]
        environment = {**os.environ, "DOCKER_HOST": self.host}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def pid(self) -> int:
        return int((self.folder / "dockerd.pid").read_text())

    def answers(self) -> bool:
        try:
            return self.docker("version", "--format", "{{.Server.Version}}") != ""
        except subprocess.CalledProcessError:
            return False

    def import_image(self, reference: str, entrypoint: Path) -> None:
        """Make an image of a program, the libraries beside it, and a shell. No registry is needed for that."""
        archive = self.folder / "image.tar"
        with tarfile.open(archive, "w") as tar:
            for file in sorted(entrypoint.parent.iterdir()):
                if file == entrypoint or ".so" in file.name:
                    tar.add(file, f"app/{file.name}")
            needed = {Path("/bin/sh"), Path("/bin/sleep")}
            for program in (entrypoint, *needed):
                printed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
                needed |= {Path(word) for word in printed.split() if word.startswith("/")}
            for file in sorted(needed):
                if not file.is_relative_to(entrypoint.parent):
                    tar.add(file.resolve(), str(file)[1:])
        settings = [f'ENTRYPOINT ["/app/{entrypoint.name}"]', "ENV LD_LIBRARY_PATH=/app"]
        self.docker("import", *(word for one in settings for word in ("--change", one)), str(archive), reference)
        archive.unlink()


@contextlib.contextmanager
def start() -> Iterator[Daemon]:
    """Run a daemon in the block. Raises CannotStart, with the reason, where none can be started."""
    if os.geteuid():
        raise CannotStart("only root can start a Docker daemon")
    folder = Path(tempfile.mkdtemp(prefix="labs-docker-", dir="/tmp"))  # short, because a socket's path must be
    daemon = Daemon(folder)
    try:
        command, environment = prepared(daemon)
        with (folder / "dockerd.log").open("wb") as log:
            process = Guarded(command, log, inherited=environment)
        try:
            if not eventually(lambda: daemon.answers() or process.exit_code() is not None, STARTS_WITHIN_S):
                raise CannotStart(f"dockerd does not answer after {STARTS_WITHIN_S} s")
            if process.exit_code() is not None:
                raise CannotStart("dockerd ended: " + (folder / "dockerd.log").read_text().strip().splitlines()[-1])
            yield daemon
        finally:
            with contextlib.suppress(OSError, ValueError):  # by itself it ends everything below it
                os.kill(daemon.pid(), signal.SIGTERM)
                eventually(lambda: process.exit_code() is not None, 15)
            process.end()
    finally:
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)
        for row in Path("/proc/mounts").read_text().splitlines():
            if row.split()[1].startswith(f"{folder}/"):
                subprocess.run(["umount", "--lazy", row.split()[1]], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def prepared(daemon: Daemon) -> tuple[list[str], dict[str, str]]:
    """The command of the daemon, and its environment, after what it needs is in its folder."""
    try:
        daemon.programs = found = debian_programs.ensure_all(*PROGRAMS)
    except LabError as e:
        raise CannotStart(e.what) from None
    folder = daemon.folder
    daemon.bin.mkdir()
    runtime = daemon.bin / "runc-with-lower-limits"
    for file, text in {
        daemon.bin / "docker": CLIENT.format(docker=found["docker"]),
        runtime: RUNTIME.format(python=sys.executable, runc=found["runc"]),
        daemon.bin / "nvidia-container-runtime-hook": "#!/bin/sh\ncat > /dev/null\n",  # --gpus needs it to be there
    }.items():
        file.write_text(text)
        file.chmod(0o755)
    runtimes = {"nvidia": {"path": str(runtime)}, "labs": {"path": str(runtime)}}
    (folder / "daemon.json").write_text(json.dumps({"runtimes": runtimes, "default-runtime": "labs"}))
    for words in (["add", BRIDGE, "type", "bridge"], ["set", BRIDGE, "up"]):
        subprocess.run(["ip", "link", *words], capture_output=True)
    address = subprocess.run(["ip", "address", "replace", ADDRESS, "dev", BRIDGE], capture_output=True, text=True)
    if address.returncode:
        raise CannotStart(f"no network can be made for it: {address.stderr.strip()}")
    command = [str(found["dockerd"]), "--config-file", f"{folder}/daemon.json", "--host", daemon.host]
    command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/dockerd.pid"]
    command += ["--group", "root", "--bridge", BRIDGE, "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
    command += [
        "--ip-forward=false",
        "--containerd-namespace",
        "labs",
        "--containerd-plugins-namespace",
        "labs-plugins",
    ]
    places = {str(path.parent): None for path in found.values()}
    return command, {**os.environ, "PATH": os.pathsep.join([str(daemon.bin), *places, "/usr/sbin:/usr/bin:/sbin:/bin"])}


class Registry:
    """A registry on this machine."""

    def __init__(self, port: int) -> None:
        self.port, self.address = port, f"127.0.0.1:{port}"

    def request(self, path: str, body: bytes | None = None) -> tuple[bytes, str]:
        """The answer to GET, or to PUT of a manifest list, and its digest."""
        headers = {"Accept": MANIFEST} if body is None else {"Content-Type": INDEX}
        request = urllib.request.Request(
            f"http://{self.address}/v2/{path}", body, headers, method="PUT" if body else "GET"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read(), answer.headers.get("Docker-Content-Digest", "")

    def index(self, repository: str, tag: str, **platforms: str) -> str:
        """A manifest list: for each architecture the manifest of a tag. Returns its digest."""
        manifests = []
        for architecture, of in platforms.items():
            text, digest = self.request(f"{repository}/manifests/{of}")
            platform = {"architecture": architecture, "os": "linux"}
            manifests.append({"mediaType": MANIFEST, "size": len(text), "digest": digest, "platform": platform})
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        return self.request(f"{repository}/manifests/{tag}", body.encode())[1]


@contextlib.contextmanager
def registry(daemon: Daemon) -> Iterator[Registry]:
    """Run Debian's registry in the block."""
    program, folder = daemon.programs["docker-registry"], daemon.folder
    here = Registry(free_port())
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": here.address},
    }
    (folder / "registry.json").write_text(json.dumps(settings))
    with (folder / "registry.log").open("wb") as log:
        process = Guarded([str(program), "serve", str(folder / "registry.json")], log)

    def answers() -> bool:
        try:
            return here.request("")[0] != b""
        except (OSError, urllib.error.URLError):
            return False

    try:
        assert eventually(answers, 60), (folder / "registry.log").read_text()
        yield here
    finally:
        process.end()

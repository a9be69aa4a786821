"""A stand-in for docker: a daemon that runs "containers" as plain processes, and a command line that asks it.

It behaves like the real thing where the labs depend on it: a container is no descendant of `docker run`; the attached
client passes SIGTERM on and returns the container's exit code, or 125 where docker itself refused; killing the client
leaves the container, and one that is being created is finished; `rm --force` ends it; pausing a paused container and
resuming a running one are errors. tests/launch/test_docker_behaviour.py asks both the same. What an image "contains" is
said by the test, as a command line.

    with standin_docker.daemon(folder, monkeypatch) as docker:      # puts `docker` on the PATH
        docker.says(pull_s=3, layers=4)                             # slow pull
        docker.containers()                                         # names of those that exist
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "refuses": "",  # what every command of the daemon fails with: no permission, no daemon
    "platforms": {"arm64": 3 << 20, "amd64": 4 << 20},  # of each image, with the size of its layers
    "present": [],  # images that are here; one that was pulled by its digest has no tag until it gets one
    "layers": 3,
    "pull_s": 0.2,
    "pull_fails": "",
    "manifest_fails": "",
    "create_s": 0,  # how long the daemon takes to create a container
    "removing": 0,  # how many times `rm` finds that the daemon is removing the container already
    "run_fails": "",  # what `docker run` ends with 125 over
    "inside": [],  # the command that an image "contains"; {port} is the published port, {arguments} what followed
}


class Docker:
    """The test's hand on the daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state.json"
        self.calls = folder / "calls.jsonl"
        self.socket = str(folder / "s")

    def says(self, **changes: Any) -> None:
        now = json.loads(self.state.read_text()) if self.state.exists() else {}
        new = self.folder / "state.new"
        new.write_text(json.dumps({**now, **changes}))
        new.rename(self.state)

    def asked(self) -> list[list[str]]:
        """Every command line so far, without the word docker."""
        return [json.loads(line) for line in self.calls.read_text().splitlines()] if self.calls.exists() else []

    def containers(self) -> list[str]:
        return [one["name"] for one in ask(self.socket, {"op": "list"})["containers"]]

    def pid(self, name: str) -> int:
        return int(
            next((one["pid"] for one in ask(self.socket, {"op": "list"})["containers"] if one["name"] == name), 0)
        )

    def run_foreign(self, name: str) -> None:
        """A container that the labs did not start."""
        request = {"op": "run", "name": name, "label": "", "command": ["sleep", "60"], "env": {}, "create_s": 0}
        threading.Thread(target=lambda: ask(self.socket, request), daemon=True).start()
        while name not in self.containers():
            time.sleep(0.02)


@contextlib.contextmanager
def daemon(folder: Path, monkeypatch: Any) -> Iterator[Docker]:
    """Start the daemon, and put a `docker` first on the PATH."""
    folder.mkdir()
    docker = Docker(folder)
    docker.says(**DEFAULTS)
    program = folder / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {Path(__file__).resolve()} {folder} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    server = Server(docker)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield docker
    finally:
        for one in list(server.running.values()):
            one.end()
        server.shutdown()
        server.server_close()


class Container:
    """A running "container"."""

    def __init__(self, name: str, label: str, process: "subprocess.Popen[bytes]") -> None:
        self.name, self.label, self.process = name, label, process
        self.id, self.status = secrets.token_hex(32), "running"

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, docker: Docker) -> None:
        super().__init__(docker.socket, Handler)
        self.running: dict[str, Container] = {}


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        wanted = json.loads(self.rfile.readline())
        running, name = self.server.running, wanted.get("name", "")
        one = next((one for one in list(running.values()) if name in (one.name, one.id, one.id[:12])), None)
        if wanted["op"] == "list":
            self.answer(
                containers=[
                    {"name": c.name, "id": c.id, "label": c.label, "pid": c.process.pid, "status": c.status}
                    for c in list(running.values())
                ]
            )
        elif wanted["op"] == "run":
            self.run(wanted)
        elif one is None:
            self.answer(error=f"No such container: {name}")
        elif wanted["op"] == "signal":
            one.signal(wanted["number"])
            self.answer()
        elif wanted["op"] == "remove":
            running.pop(one.name, None)
            one.end()
            self.answer()
        else:  # pause, unpause
            pausing = wanted["op"] == "pause"
            if pausing == (one.status == "paused"):
                self.answer(error=f"Container {one.id} is {'already paused' if pausing else 'not paused'}")
            else:
                one.signal(signal.SIGSTOP if pausing else signal.SIGCONT)
                one.status = "paused" if pausing else "running"
                self.answer()

    def run(self, wanted: dict[str, Any]) -> None:
        running, name = self.server.running, wanted["name"]
        if name in running:
            self.answer(
                error=f'Conflict. The container name "/{name}" is already in use by container "{running[name].id}". '
                "You have to remove (or rename) that container to be able to reuse that name"
            )
            return
        time.sleep(wanted["create_s"])  # and it goes on, whether or not the client still waits
        process = subprocess.Popen(
            wanted["command"],
            env={**os.environ, **wanted["env"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        running[name] = one = Container(name, wanted["label"], process)
        assert process.stdout
        with contextlib.suppress(OSError):  # the client may be gone; the container goes on
            for line in iter(process.stdout.readline, b""):
                self.answer(line=line.decode(errors="replace"))
        code = process.wait()
        if running.get(name) is one:
            del running[name]
        self.answer(exit=code if code >= 0 else 128 - code)

    def answer(self, **what: Any) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps(what).encode() + b"\n")


def ask(address: str, request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address)
        s.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(s.makefile().readline())
        return answer


def fail(message: str, code: int = 1) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def client(folder: Path, words: list[str]) -> None:
    """The command line."""
    docker = Docker(folder)
    state = json.loads(docker.state.read_text())
    with docker.calls.open("a") as out:
        out.write(json.dumps(words) + "\n")
    if words[:2] == ["manifest", "inspect"]:  # the client asks the registry by itself
        if state["manifest_fails"]:
            fail(state["manifest_fails"])
        print(
            json.dumps(
                [
                    {
                        "Descriptor": {"platform": {"architecture": name, "os": "linux"}},
                        "OCIManifest": {"layers": [{"size": size // 2}, {"size": size - size // 2}]},
                    }
                    for name, size in state["platforms"].items()
                ]
            )
        )
        return
    if state["refuses"]:
        fail(state["refuses"])
    if words[0] == "info":
        said = {"ServerVersion": "29.1.3", "DockerRootDir": str(folder), "Runtimes": {"nvidia": {}, "runc": {}}}
        print(folder if "DockerRootDir" in words[-1] else json.dumps(said))
    elif words[:2] == ["image", "inspect"]:
        inspect_image(state, words[3], words[-1])
    elif words[0] == "tag":
        if words[1] not in state["present"]:
            fail(f"Error response from daemon: No such image: {words[1]}")
        docker.says(present=[*state["present"], words[2]])
    elif words[:2] == ["image", "prune"]:  # an image by its digest stays only as long as a tag names it, too
        docker.says(present=[one for one in state["present"] if one.partition("@")[0] in state["present"]])
    elif words[0] == "pull":
        pull(docker, state, words[-1])
    elif words[0] == "run":
        run(docker, state, words[1:])
    elif words[0] == "rm" and state["removing"]:
        docker.says(removing=state["removing"] - 1)
        fail(f"Error response from daemon: removal of container {words[-1]} is already in progress")
    elif words[0] == "rm":
        for name in words[1:]:
            if not name.startswith("-"):
                answer = ask(docker.socket, {"op": "remove", "name": name})
                if "error" in answer:  # with --force that is no failure
                    print(f"Error response from daemon: {answer['error']}", file=sys.stderr)
                else:
                    print(name)
    elif words[0] in ("pause", "unpause"):
        answer = ask(docker.socket, {"op": words[0], "name": words[-1]})
        if "error" in answer:
            fail(f"Error response from daemon: {answer['error']}")
        print(words[-1])
    elif words[:2] == ["container", "inspect"]:
        one = next((c for c in ask(docker.socket, {"op": "list"})["containers"] if c["name"] == words[-1]), None)
        if one is None:
            fail(f"Error response from daemon: No such container: {words[-1]}")
        else:
            print(one[{"{{.State.Pid}}": "pid", "{{.State.Status}}": "status"}[words[3]]])
    elif words[0] == "ps":
        list_containers(docker, words[1:])
    else:
        fail(f"docker: '{words[0]}' is not a docker command.")


def inspect_image(state: dict[str, Any], template: str, image: str) -> None:
    if image not in state["present"]:
        fail(f"Error response from daemon: No such image: {image}")
    name, _, digest = image.partition("@")
    tags = [name] if name in state["present"] else []
    identity, repository = "sha256:" + "1" * 64, name.rpartition(":")[0]
    digests = [f"elsewhere/{repository}@sha256:{'e' * 64}", f"{repository}@{digest or 'sha256:' + 'd' * 64}"]
    if template == "{{.Id}}":
        print(identity)
    elif template == "{{json .RepoTags}}":
        print(json.dumps(tags))
    else:
        print(json.dumps({"Id": identity, "RepoTags": tags, "RepoDigests": digests}))


def list_containers(docker: Docker, words: list[str]) -> None:
    """`ps` with the options that the labs use."""
    found = ask(docker.socket, {"op": "list"})["containers"]
    if "--filter" in words:
        label = words[words.index("--filter") + 1].removeprefix("label=")
        found = [one for one in found if one["label"] == label or one["label"].partition("=")[0] == label]
    for one in found:
        if "--quiet" in words:
            print(one["id"] if "--no-trunc" in words else one["id"][:12])
        else:
            print(one["name"])


def pull(docker: Docker, state: dict[str, Any], image: str) -> None:
    layers = [f"{number:012x}" for number in range(state["layers"])]
    for layer in layers:
        print(f"{layer}: Pulling fs layer", flush=True)
    for layer in layers:
        time.sleep(state["pull_s"] / len(layers))
        if state["pull_fails"]:
            fail(state["pull_fails"])
        print(f"{layer}: Download complete\n{layer}: Pull complete", flush=True)
    print(f"Status: Downloaded newer image for {image}")
    docker.says(present=[*state["present"], image])


def run(docker: Docker, state: dict[str, Any], words: list[str]) -> None:
    """Only options that the labs use, and those must be known here: another one is refused, as by docker."""
    settings: dict[str, str] = {}
    name = port = label = entrypoint = ""
    while words[0].startswith("-"):
        option, _, value = words.pop(0).partition("=")
        if option in ("--rm",):
            continue
        value = value or words.pop(0)
        if option == "--name":
            name = value
        elif option in ("--env", "-e"):
            key, sign, text = value.partition("=")
            if sign or key in os.environ:
                settings[key] = text if sign else os.environ[key]
        elif option == "--publish":
            port = value.split(":")[1]
        elif option == "--label":
            label = value
        elif option == "--entrypoint":
            entrypoint = value
        elif option not in ("--pull", "--gpus", "--runtime", "--ipc", "--ulimit", "--volume"):
            refuse(f"unknown flag: {option}")
    image, arguments = words[0], words[1:]
    if image not in state["present"]:
        refuse(f"docker: Error response from daemon: No such image: {image}")
    if state["run_fails"]:
        refuse(f"docker: Error response from daemon: {state['run_fails']}")
    inside = [entrypoint, *arguments] if entrypoint else state["inside"]
    command = [word.format(port=port, arguments=json.dumps(arguments), name=name) for word in inside]

    def pass_on(number: int, _: object) -> None:
        ask(docker.socket, {"op": "signal", "name": name, "number": number})

    signal.signal(signal.SIGTERM, pass_on)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(docker.socket)
        request = {"op": "run", "name": name, "label": label, "command": command, "env": settings}
        s.sendall(json.dumps({**request, "create_s": state["create_s"]}).encode() + b"\n")
        for row in s.makefile():
            answer = json.loads(row)
            if "error" in answer:
                refuse(f"docker: Error response from daemon: {answer['error']}")
            if "exit" in answer:
                sys.exit(answer["exit"])
            print(answer["line"], end="", flush=True)


def refuse(message: str) -> None:
    """`docker run` could not start the container."""
    fail(f"{message}\n\nRun 'docker run --help' for more information", 125)


if __name__ == "__main__":
    client(Path(sys.argv[1]), sys.argv[2:])

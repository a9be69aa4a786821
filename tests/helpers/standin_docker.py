"""A stand-in for docker: a daemon that runs "containers" as plain processes, and a command line that asks it.

It behaves like the real thing where the labs depend on it: a container is no descendant of `docker run`; the attached
client passes SIGTERM on and returns the container's exit code, or 125 where docker itself refused; killing the client
leaves the container; `rm --force` ends it. What an image "contains" is said by the test, as a command line.

    with standin_docker.daemon(folder, monkeypatch) as docker:      # puts `docker` on the PATH
        docker.says(pull_s=3, layers=4)                             # slow pull
        docker.containers()                                         # names of those that exist
"""

import contextlib
import json
import os
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
    "refuses": "",  # what every command fails with: no permission, no daemon
    "platforms": {"arm64": 3 << 20, "amd64": 4 << 20},  # of each image, with the size of its layers
    "present": [],  # images that are here
    "layers": 3,
    "pull_s": 0.2,
    "pull_fails": "",
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
        return list(ask(self.socket, {"op": "list"})["names"])

    def pid(self, name: str) -> int:
        return int(ask(self.socket, {"op": "pid", "name": name})["pid"])


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
        for name in list(server.running):
            server.end(name, signal.SIGKILL)
        server.shutdown()
        server.server_close()


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, docker: Docker) -> None:
        super().__init__(docker.socket, Handler)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def end(self, name: str, number: int) -> None:
        process = self.running.get(name)
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        wanted = json.loads(self.rfile.readline())
        running, name = self.server.running, wanted.get("name", "")
        if wanted["op"] == "list":
            self.answer(names=list(running))
        elif wanted["op"] == "pid":
            self.answer(pid=running[name].pid if name in running else 0)
        elif wanted["op"] == "signal":
            self.server.end(name, wanted["number"])
            self.answer(known=name in running)
        elif wanted["op"] == "remove":
            process = running.pop(name, None)
            if process:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self.answer(known=process is not None)
        elif name in running:
            self.answer(error=f'Conflict. The container name "/{name}" is already in use')
        else:
            process = subprocess.Popen(
                wanted["command"],
                env={**os.environ, **wanted["env"]},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            running[name] = process
            assert process.stdout
            with contextlib.suppress(OSError):  # the client may be gone; the container goes on
                for line in iter(process.stdout.readline, b""):
                    self.answer(line=line.decode(errors="replace"))
            process.wait()
            code = process.returncode
            running.pop(name, None)
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
    if state["refuses"]:
        fail(state["refuses"])
    if words[0] == "info":
        said = {"ServerVersion": "29.1.3", "DockerRootDir": str(folder), "Runtimes": {"nvidia": {}, "runc": {}}}
        print(folder if "DockerRootDir" in words[-1] else json.dumps(said))
    elif words[:2] == ["image", "inspect"]:
        if words[-1] not in state["present"]:
            fail(f"Error response from daemon: No such image: {words[-1]}")
        print(json.dumps({"Id": "sha256:" + "1" * 64, "RepoDigests": [f"{words[-1].split(':')[0]}@sha256:{'d' * 64}"]}))
    elif words[:2] == ["manifest", "inspect"]:
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
    elif words[0] == "pull":
        pull(docker, state, words[-1])
    elif words[0] == "run":
        run(docker, state, words[1:])
    elif words[0] == "rm":
        ask(docker.socket, {"op": "remove", "name": words[-1]})
    elif words[0] in ("pause", "unpause"):
        number = signal.SIGSTOP if words[0] == "pause" else signal.SIGCONT
        if not ask(docker.socket, {"op": "signal", "name": words[-1], "number": number})["known"]:
            fail(f"Error response from daemon: No such container: {words[-1]}")
    elif words[0] == "inspect":
        print(ask(docker.socket, {"op": "pid", "name": words[-1]})["pid"])
    elif words[0] == "ps":
        print("\n".join(docker.containers()))
    else:
        fail(f"docker: '{words[0]}' is not a docker command.")


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
    name = port = ""
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
        elif option not in ("--pull", "--label", "--gpus", "--runtime", "--ipc", "--ulimit", "--volume"):
            fail(f"unknown flag: {option}", 125)
    image, arguments = words[0], words[1:]
    if image not in state["present"]:
        fail(f"docker: Error response from daemon: No such image: {image}", 125)
    if state["run_fails"]:
        fail(f"docker: Error response from daemon: {state['run_fails']}", 125)
    command = [word.format(port=port, arguments=json.dumps(arguments), name=name) for word in state["inside"]]

    def pass_on(number: int, _: object) -> None:
        ask(docker.socket, {"op": "signal", "name": name, "number": number})

    signal.signal(signal.SIGTERM, pass_on)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(docker.socket)
        request = {"op": "run", "name": name, "command": command, "env": settings}
        s.sendall(json.dumps(request).encode() + b"\n")
        for row in s.makefile():
            answer = json.loads(row)
            if "error" in answer:
                fail(f"docker: Error response from daemon: {answer['error']}.", 125)
            if "exit" in answer:
                sys.exit(answer["exit"])
            print(answer["line"], end="", flush=True)


if __name__ == "__main__":
    client(Path(sys.argv[1]), sys.argv[2:])

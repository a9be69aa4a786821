"""Recorded machines, one TOML file each, made of published outputs. They replace shared.hardware.host.Host in tests.

`source` names where the outputs were published, and which parts of the file are synthetic.
"""

import tomllib
from pathlib import Path
from typing import Any

from shared.hardware.host import LIMIT_S, MISSING, TIMED_OUT, CommandOutput, Host

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.toml"))


class RecordedHost(Host):
    """A Host that answers from a file. Anything that isn't in the file doesn't exist."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.env = facts.get("env", {})
        self.asked: list[str] = []

    def run(self, *command: str, limit_s: float = LIMIT_S) -> CommandOutput:
        self.asked.append(" ".join(command))
        said = self.facts.get("commands", {}).get(" ".join(command))
        if said is None:
            return CommandOutput(err=f"no such command: {command[0]}", failure=MISSING)
        if said.get("hangs"):
            return CommandOutput(err=f"no answer in {limit_s:.0f} s", failure=TIMED_OUT)
        code = said.get("exit", 0)
        return CommandOutput(said.get("out", ""), said.get("err", ""), f"exit {code}" if code else "")

    def read(self, path: str) -> str | None:
        text: str | None = self.facts.get("files", {}).get(path)
        return text

    def which(self, tool: str) -> str | None:
        return f"/usr/bin/{tool}" if tool in self.facts["tools"] else None

    def free_bytes(self, folder: Path) -> int | None:
        return int(self.facts["disk_gib"] * 2**30)

    def locks_work(self, folder: Path) -> bool | None:
        return bool(self.facts.get("locks", True))

    def architecture(self) -> str:
        return str(self.facts["architecture"])

    def cores(self) -> int:
        return int(self.facts["cores"])

    def listeners(self) -> dict[int, str]:
        return {int(port): who for port, who in self.facts.get("ports", {}).items()}


def facts(name: str) -> dict[str, Any]:
    """The content of the file, for a test that changes part of it."""
    return tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text())


def machine(name: str, **env: str) -> RecordedHost:
    """The machine of this name, with these environment variables added to its own."""
    found = facts(name)
    found["env"] = {**found.get("env", {}), **env}
    return RecordedHost(found)

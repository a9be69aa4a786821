"""The engines' published command lines (environment/containers/cli), and what of a command line isn't in them."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import paths

CLI = paths.REPO / "environment" / "containers" / "cli"
ENV_OF = {"ollama": "llamacpp"}  # a server that hands its environment on to another engine's below it


def is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# What a value must look like, by what its flag or variable takes; anything else takes any text.
READS: Mapping[str, Callable[[str], object]] = {
    "int": re.compile(r"-?\d+").fullmatch,
    "uint": re.compile(r"\d+").fullmatch,
    "size": re.compile(r"-?\d+|\d+(\.\d+)?[kmgtKMGT]|auto").fullmatch,
    "float": is_float,
    "number": is_float,
    "json": is_json,
    # Go's ParseBool, which Ollama uses
    "bool": re.compile(r"1|t|T|TRUE|true|True|0|f|F|FALSE|false|False").fullmatch,
}

COUNTS: Mapping[Any, tuple[int, int]] = {"?": (0, 1), "*": (0, sys.maxsize), "+": (1, sys.maxsize)}  # as in argparse


def published(engine: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((CLI / f"{engine}.json").read_text())
    return content


def flags_of(engine: str, command: str) -> dict[str, dict[str, Any]]:
    """Every flag of a command, those that it shares with another one included."""
    said = published(engine)["commands"][command]
    flags = flags_of(engine, said["like"]) if "like" in said else {}
    flags = {name: flag for name, flag in flags.items() if name not in said.get("without", ())}
    return flags | dict(said["flags"])


def split(engine: str, line: Sequence[str]) -> tuple[str, list[str]]:
    """(the published command that the line begins with, the rest); the file's first command if it begins with none."""
    commands = list(published(engine)["commands"])
    # Programs and scripts are known by name, wherever they lie: /opt/venv/bin/python3 is `python`.
    words = [re.sub(r"^python3$", "python", Path(word).name) for word in line]
    begun = [name for name in commands if words[: len(name.split())] == name.split()]
    command = max(begun, key=len, default="")
    return command or commands[0], list(line[len(command.split()) :])


def misfit(name: str, flag: Mapping[str, Any], value: str) -> list[str]:
    """What is wrong with a flag's or variable's value."""
    takes = flag["takes"]
    if isinstance(takes, list):
        chosen = value.split(flag["separator"]) if "separator" in flag else [value]
        return [f"{name} takes no {c!r}, but one of {', '.join(map(str, takes))}" for c in chosen if c not in takes]
    return [] if takes not in READS or READS[takes](value) else [f"{name} takes no {value!r}, but {takes}"]


def unknown(engine: str, arguments: Sequence[str], command: str = "") -> list[str]:
    """What of a command line the engine's published one doesn't have, as sentences; none if it has everything.

    The line may begin with one of the file's commands ("vllm serve") or hold only what follows it; `command`
    says which one is meant where it isn't the file's first. An unknown, removed or abbreviated flag is reported,
    a value outside the published choices or of another kind, a missing value, and a word too many.
    """
    found: list[str] = []
    begun, rest = (command, list(arguments)) if command else split(engine, arguments)
    flags, places = flags_of(engine, begun), list(published(engine)["commands"][begun]["positional"])
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if f"{begun} {word}" in published(engine)["commands"]:
                return found + unknown(engine, rest, f"{begun} {word}")
            if not places:
                found.append(f"{begun} takes no {word!r}")
            places = places[1:]
            if places == ["..."]:
                return found  # the rest belongs to another program
            continue
        name, equals, value = word.partition("=")
        flag = flags.get(name)
        outer = flags.get(name.partition(".")[0], {})
        if flag is None and outer.get("takes") == "json":
            flag = {"takes": "str"}  # --config.key value, of a flag that takes json
        if flag is None:
            found.append(f"{begun} has no {name}")
            # Its value, if it has one, is no word too many.
            rest = rest[1:] if rest and not equals and is_value(rest[0]) else rest
            continue
        flag = flags[flag["alias_of"]] if "alias_of" in flag else flag
        if flag.get("removed"):
            found.append(f"{begun} has no {name} any more")
        if flag["takes"] == "flag":
            found += [f"{name} takes no value"] if equals else []
            continue
        least, most = COUNTS.get(flag.get("nargs"), (flag.get("nargs", 1),) * 2)
        values = [value] if equals else []
        while not equals and rest and is_value(rest[0]) and len(values) < most:
            values.append(rest.pop(0))
        if len(values) < least:
            found.append(f"{name}: its value is missing")
        for value in values:
            found += misfit(name, flag, value)
    return found


def is_value(word: str) -> bool:
    """Whether a word after a flag is its value: -1 is one, -np is the next flag."""
    return not word.startswith("-") or is_float(word)


def unknown_settings(engine: str, settings: Mapping[str, object]) -> list[str]:
    """The same of environment variables, for an engine that takes its flags from there."""
    variables = dict(published(engine)["variables"])
    if below := ENV_OF.get(engine):
        for command in published(below)["commands"]:
            variables |= {flag["env"]: flag for flag in flags_of(below, command).values() if "env" in flag}
    found: list[str] = []
    for name, value in settings.items():
        variable = variables.get(name)
        if variable is None:
            found.append(f"{engine} reads no {name}")
        else:
            # A flag of llama.cpp's that takes no value is a variable that is 1 or 0.
            found += misfit(name, {"takes": "bool"} if variable["takes"] == "flag" else variable, str(value))
    return found


def unknown_keys(config: Mapping[str, Any]) -> list[str]:
    """The same of TensorRT-LLM's YAML file, which may hold no other key than those read at 1.3.0rc3."""
    yaml = published("trtllm")["yaml"]
    found = [f"no key {key}" for key in config if key not in yaml["top_level"]]
    for outer, inner in config.items():
        if not isinstance(inner, Mapping):
            continue
        known = yaml.get(outer)
        if outer == "speculative_config":
            aliases, kind = known["aliases"], inner.get("decoding_type")
            if kind not in known["decoding_type_values"]:
                found.append(f"no decoding_type {kind}")
            known = known.get(kind)
            inner = {aliases.get(key, key): value for key, value in inner.items()}
        # None: the file doesn't list the keys of this one
        found += [f"no key {outer}.{key}" for key in inner if known is not None and key not in known]
        found += [
            f"{outer}.{key} is gone in newer ones" for key in inner if key in yaml.get(f"{outer}_gone_in_newer", ())
        ]
    return found

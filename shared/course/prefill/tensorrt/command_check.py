"""What is wrong with a command line of TensorRT-LLM, and why: checked against environment/containers/cli.

    explain("trtllm-build --checkpoint_dir ckpt --gemm_plugin nvfp5")

A flag is right for one version only. The published files name the version in which each command was read.
"""

import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from shared.engines.published_flags import flags_of, published, split, unknown, unknown_keys
from shared.errors import LabError

LAST_WITH_BUILDER = "1.3.0rc20"
REMOVED = (
    "trtllm-build",
    "python -m tensorrt_llm.commands.build",
    "python convert_checkpoint.py",
    "trtllm-bench build",
)
ENGINES = ("trtllm", "edgellm")


def explain(line: str | Sequence[str], version: str = LAST_WITH_BUILDER) -> list[str]:
    """Everything that is wrong with a command line, one sentence each; none if it is right for this version.

    Raises LabError for a command that isn't published, or text that no shell could split into words.
    """
    words = split_words(line)
    engine, command = find(words)
    found = [f"{one}{reason(engine, command, one)}" for one in unknown(engine, words)]
    found += [f"{command} needs {name}" for name in missing(engine, command, words)]
    if command in REMOVED and not has_builder(version):
        found.append(
            f"{command} is not part of TensorRT-LLM {version}: the TensorRT backend was removed in July 2026, and "
            f"{LAST_WITH_BUILDER} is the last version with it"
        )
    return found


def split_words(line: str | Sequence[str]) -> list[str]:
    if not isinstance(line, str):
        return [str(word) for word in line]
    try:
        return shlex.split(line.replace("\\\n", " "))
    except ValueError as e:
        raise LabError(f"The command can't be split into words: {e}.", "close every quotation mark") from None


def find(words: Sequence[str]) -> tuple[str, str]:
    """(the engine, the published command) that the words begin with. Raises LabError if none is published."""
    for engine in ENGINES:
        command, _ = split(engine, words)
        name = command.split()
        begun = [re.sub(r"^python3$", "python", word.rpartition("/")[2]) for word in words[: len(name)]]
        if begun == name:
            return engine, deepest(engine, command, words[len(name) :])
    known = ", ".join(command for engine in ENGINES for command in published(engine)["commands"])
    raise LabError(f"{' '.join(words[:3]) or 'An empty line'} is not a published command.", f"it begins with: {known}")


def deepest(engine: str, command: str, rest: Sequence[str]) -> str:
    """The subcommand that the rest of the line names, or the command itself."""
    for word in rest:
        if f"{command} {word}" in published(engine)["commands"]:
            command = f"{command} {word}"
    return command


def reason(engine: str, command: str, fault: str) -> str:
    """Why a flag is unknown to a command: another one has it, or its name is nearly another's; "" if neither."""
    if not (match := re.search(r" has no (--?[\w.-]+)$", fault)):
        return ""
    name = match[1]
    if others := [c for c in published(engine)["commands"] if c != command and name in flags_of(engine, c)]:
        twins = [c for c in others if c in REMOVED] or others
        return f": it is a flag of {twins[0]}"
    near = difflib.get_close_matches(name, flags_of(engine, command), n=1)
    return f": did you mean {near[0]}?" if near else ""


def missing(engine: str, command: str, words: Sequence[str]) -> list[str]:
    """The flags and positional words that a command can't do without, and that the line lacks."""
    groups = [name for name in published(engine)["commands"] if command == name or command.startswith(f"{name} ")]
    flags = {name: flag for group in groups for name, flag in flags_of(engine, group).items()}
    given = {word.partition("=")[0] for word in words}
    needed = [name for name, flag in flags.items() if flag.get("required") and "alias_of" not in flag]
    alias = {name: flag["alias_of"] for name, flag in flags.items() if "alias_of" in flag}
    return [name for name in needed if name not in given and not any(alias.get(one) == name for one in given)]


def has_builder(version: str) -> bool:
    """Whether TensorRT-LLM of this version has the builder of TensorRT engines."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version) <= Version(LAST_WITH_BUILDER)
    except InvalidVersion:
        raise LabError(f"{version!r} is not a version of TensorRT-LLM.", "give one such as 1.2.1") from None


def explain_yaml(text: str | Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the YAML file of trtllm-serve, given as JSON text (which is YAML) or a mapping.

    The keys are those of 1.3.0rc3: an unknown key stops the server.
    """
    keys = json.loads(text) if isinstance(text, str) else text
    return [f"{fault}{yaml_reason(fault)}" for fault in unknown_keys(keys)]


def yaml_reason(fault: str) -> str:
    yaml = published("trtllm")["yaml"]
    if not (match := re.match(r"no key ([\w.]+)$", fault)):
        return ""
    outer, _, inner = match[1].rpartition(".")
    for hint in yaml["not_top_level"]:
        if hint.split()[0] == match[1] and "(" in hint:
            return f": {hint.partition('(')[2].rstrip(')')}"
    if match[1] in yaml["top_level_newer_only"] or inner in yaml.get(f"{outer}_newer_only", ()):
        return ": versions after 1.3.0rc3 have it"
    if owner := next((name for name, keys in yaml.items() if isinstance(keys, list) and inner in keys), ""):
        return f": it belongs {'at the top' if owner == 'top_level' else f'under {owner}'}"
    known = yaml["top_level"] if not outer else [key for key in yaml.get(outer, ()) if isinstance(key, str)]
    near = difflib.get_close_matches(inner, known, n=1)
    return f": did you mean {near[0]}?" if near else ""

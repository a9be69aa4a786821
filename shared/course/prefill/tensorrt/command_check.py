"""What is wrong with a command line of TensorRT-LLM, and why: checked against environment/containers/cli.

    explain("trtllm-build --checkpoint_dir ckpt --gemm_plugin nvfp5")
    show_faults("trtllm-serve --model m")       # the same, printed

A flag is right for one version only. The published files name the version in which each command was read.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Sequence

from shared.engines.published_flags import flags_of, published, split, unknown
from shared.errors import LabError

LAST_WITH_BUILDER = "1.3.0rc20"
REMOVED = (
    "trtllm-build",
    "python -m tensorrt_llm.commands.build",
    "python convert_checkpoint.py",
    "trtllm-bench build",
)
ENGINES = ("trtllm", "edgellm")


KINDS = {"int": "a whole number", "uint": "a whole number", "float": "a number", "number": "a number", "json": "JSON"}


def show_faults(line: str) -> None:
    """Print everything that is wrong with a command line, or that nothing was found."""
    print_faults(lambda: explain(line), "every flag and value of it is published")


def print_faults(found: Callable[[], Sequence[str]], right: str) -> None:
    """Print these faults, or the error that kept them from being looked for, or what is `right` if there is none."""
    try:
        faults = found()
    except LabError as e:
        faults = [f"{e}"]
    print("\n".join(f"✘ {one}" for one in faults) or f"✔ {right}")


def explain(line: str | Sequence[str], version: str = LAST_WITH_BUILDER) -> list[str]:
    """Everything that is wrong with a command line, one sentence each; none if it is right for this version.

    Raises LabError for a command that isn't published, or text that no shell could split into words.
    """
    words = split_words(line)
    engine, command = find(words)
    wrong = [one for one in unknown(engine, words) if not (of_engines(engine, command, one) and has_builder(version))]
    found = [f"{plain(one)}{reason(engine, command, one)}" for one in wrong]
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
        if begins(words, command):
            return engine, deepest(engine, command, words[len(command.split()) :])
    known = sorted({programs(command) for engine in ENGINES for command in published(engine)["commands"]})
    if inner := [name for name in known for n in range(1, len(words)) if begins(words[n:], name)]:
        fix = f"check the part from {inner[0]} on: what stands before it belongs to another program"
    elif words and (near := difflib.get_close_matches(words[0], known, n=1)):
        fix = f"did you mean {near[0]}?"
    else:
        fix = f"it begins with one of: {', '.join(known)}"
    raise LabError(f"{' '.join(words[:3]) or 'An empty line'} is not a published command.", fix)


def begins(words: Sequence[str], command: str) -> bool:
    """Whether the words begin with this command. Programs and scripts are known by name, wherever they lie."""
    name = command.split()
    return [re.sub(r"^python3$", "python", word.rpartition("/")[2]) for word in words[: len(name)]] == name


def programs(command: str) -> str:
    """The words of a command that name its program: `trtllm-bench` of `trtllm-bench throughput`."""
    return command if command.startswith("python") else command.split()[0]


def deepest(engine: str, command: str, rest: Sequence[str]) -> str:
    """The subcommand that the rest of the line names, or the command itself."""
    for word in rest:
        if f"{command} {word}" in published(engine)["commands"]:
            command = f"{command} {word}"
    return command


def plain(fault: str) -> str:
    """The fault with the kind of value in words: "a whole number" for "int"."""
    return re.sub(r", but (\w+)$", lambda match: f", but {KINDS.get(match[1], match[1])}", fault)


def of_engines(engine: str, command: str, fault: str) -> bool:
    """Whether the fault is a flag or a value for TensorRT engines, which versions with the builder have."""
    match = re.search(r" has no (\S+) any more$", fault) or re.match(r"(\S+) takes no '(.+)', but ", fault)
    if not match or (values := flags_of(engine, command).get(match[1], {}).get("with_builder")) is None:
        return False
    return match.re.groups == 1 or bool(match[2] in values)


def reason(engine: str, command: str, fault: str) -> str:
    """Why a flag or word is unknown to a command; "" if nothing is known about it."""
    if of_engines(engine, command, fault):
        return f": it is for TensorRT engines, and {LAST_WITH_BUILDER} is the last version with them"
    if match := re.search(r" takes no '(\S+)'$", fault):
        return f": its subcommands are {', '.join(below)}" if (below := subcommands(engine, command)) else ""
    if not (match := re.search(r" has no (--?[\w.-]+)$", fault)):
        return ""
    name, own = match[1], flags_of(engine, command)
    if name.lstrip("-").upper() in published(engine)["commands"][command]["positional"]:
        return f": write the {name.lstrip('-')} as a word, without a flag"
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.75)
    meant = f"did you mean {near[0]}?" if near else ""
    if near and near[0].replace("-", "_") == name.replace("-", "_"):
        return f": {meant}"
    if others := [c for c in published(engine)["commands"] if c != command and name in flags_of(engine, c)]:
        if outer := [c for c in others if command.startswith(f"{c} ")]:
            return f": it is a flag of {outer[0]}, so it stands before {command.removeprefix(outer[0] + ' ')}"
        nearest = [c for c in others if c.startswith(f"{command} ")] or [c for c in others if c in REMOVED] or others
        return f": it is a flag of {nearest[0]}" + (f"; {meant}" if meant else "")
    return f": {meant}" if meant else ""


def subcommands(engine: str, command: str) -> list[str]:
    """The names of a command's subcommands; none if it has a positional word, which could be any name."""
    known = published(engine)["commands"]
    below = [name.removeprefix(f"{command} ") for name in known if name.startswith(f"{command} ")]
    return [] if known[command]["positional"] else [name for name in below if " " not in name]


def missing(engine: str, command: str, words: Sequence[str]) -> list[str]:
    """What a command can't do without, and that the line lacks: flags, positional words, a subcommand."""
    groups = [name for name in published(engine)["commands"] if command == name or command.startswith(f"{name} ")]
    flags = {name: flag for group in groups for name, flag in flags_of(engine, group).items()}
    given = {word.partition("=")[0] for word in words}
    needed = [name for name, flag in flags.items() if flag.get("required") and "alias_of" not in flag]
    alias = {name: flag["alias_of"] for name, flag in flags.items() if "alias_of" in flag}
    found = [name for name in needed if name not in given and not any(alias.get(one) == name for one in given)]
    below = subcommands(engine, command)
    if below and not any(one.startswith(f"{command} takes no") for one in unknown(engine, words)):
        found.append(f"a subcommand: {', '.join(below)}")
    places = published(engine)["commands"][command]["positional"]
    if places and begins(words, command):
        # A word more for each place: every word of the line that fills a place is then one too many.
        at = len(command.split())
        filled = [one for one in unknown(engine, [*words[:at], *places, *words[at:]]) if " takes no '" in one]
        own = [one for one in filled if one.startswith(f"{command} takes no")]
        found += [f"the word {place}" for place in places[len(own) :]]
    return found


def has_builder(version: str) -> bool:
    """Whether TensorRT-LLM of this version has the builder of TensorRT engines."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version) <= Version(LAST_WITH_BUILDER)
    except InvalidVersion:
        raise LabError(f"{version!r} is not a version of TensorRT-LLM.", "give one such as 1.2.1") from None

"""What is wrong with the YAML file of trtllm-serve, and why: checked against environment/containers/cli.

The keys are those of 1.3.0rc3. An unknown key stops the server.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from shared.course.prefill.tensorrt.command_check import print_faults
from shared.engines.published_flags import published, unknown_keys
from shared.errors import LabError


def show_faults(text: str) -> None:
    """Print everything that is wrong with a file, or that nothing was found."""
    print_faults(lambda: explain(text), "every key of it is published")


def explain(text: str | Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the file, one sentence each; none if it is right.

    Raises LabError for a text that isn't YAML, or that holds no keys.
    """
    keys = read(text) if isinstance(text, str) else text
    return [f"{fault}{reason(fault)}" for fault in unknown_keys(keys)] + wrong_values(keys)


def read(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as e:
        where = getattr(e, "problem_mark", None)
        at = f" in line {where.line + 1}" if where else ""
        raise LabError(f"The file is no YAML{at}: {getattr(e, 'problem', e)}.", "one `key: value` a line") from None
    if not isinstance(found, dict):
        raise LabError("The file holds no keys with values.", "one `key: value` a line")
    return found


def reason(fault: str) -> str:
    """Why a key is unknown; "" if nothing is known about it."""
    known = published("trtllm")["yaml"]
    if not (match := re.match(r"no key ([\w.-]+)$", fault)):
        return ""
    outer, _, inner = match[1].rpartition(".")
    for hint in known["not_top_level"]:
        if hint.split()[0] == match[1]:
            return f": {hint.partition('(')[2].rstrip(')') or 'CUDA graphs are set under cuda_graph_config'}"
    if match[1] in known["top_level_newer_only"] or inner in known.get(f"{outer}_newer_only", ()):
        return ": versions after 1.3.0rc3 have it"
    sections = {name: keys for name, keys in known.items() if isinstance(keys, list) and is_section(name)}
    if owner := next((name for name, keys in sections.items() if inner in keys), ""):
        return f": it belongs {'at the top' if owner == 'top_level' else f'under {owner}'}"
    near = difflib.get_close_matches(inner, names_in(outer), n=1)
    return f": did you mean {near[0]}?" if near else ""


def is_section(name: str) -> bool:
    """Whether the published file lists a section's keys under this name, or those at the top."""
    return name == "top_level" or name.endswith("_config")


def names_in(section: str) -> list[str]:
    """The keys of a section; "" is the top."""
    known = published("trtllm")["yaml"]
    keys = known.get(section or "top_level", [])
    if isinstance(keys, dict):  # speculative_config: a list for each kind of decoding
        return sorted({one for listed in keys.values() if isinstance(listed, list) for one in listed})
    return list(keys)


def wrong_values(keys: Mapping[str, Any]) -> list[str]:
    """A section that holds no keys, and a fraction of memory outside 0 to 1."""
    known = published("trtllm")["yaml"]
    sections = [name for name in known if name.endswith("_config") and is_section(name)]
    found = [
        f"{name} holds {keys[name]!r}, but needs keys of its own, such as {names_in(name)[0]}"
        for name in sections
        if keys.get(name) is not None and not isinstance(keys[name], Mapping)
    ]
    cache = keys.get("kv_cache_config")
    share = cache.get("free_gpu_memory_fraction", 0.5) if isinstance(cache, Mapping) else 0.5
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        found.append(f"kv_cache_config.free_gpu_memory_fraction takes no {share!r}, but a number from 0 to 1")
    return found

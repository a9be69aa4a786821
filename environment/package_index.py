"""The package index of pip's settings, as settings for uv, which doesn't read pip's.

A mirror may stand in a variable (PIP_INDEX_URL) or only in pip's configuration files; pip knows them all. bootstrap.sh
runs this file with a Python that has no package of the labs, so it imports the standard library only.
"""

import ast
import os
import re
import shlex
import subprocess
import sys

# pip's setting → uv's variable, and what separates several values in it
NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
}


def for_uv() -> dict[str, str]:
    """The variables of uv that correspond to pip's settings, without those that the user has set. Empty without pip."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    found: dict[str, tuple[int, str]] = {}
    for line in listed.stdout.splitlines():
        if setting := re.fullmatch(r"(global|install|:env:)\.([a-z-]+)=('.*'|\".*\")", line):
            level = ("global", "install", ":env:").index(setting[1])  # a later one has precedence, as for pip
            name, separator = NAMES.get(setting[2], ("", ""))
            value = separator.join(str(ast.literal_eval(setting[3])).split())
            if name and value and level >= found.get(name, (0, ""))[0]:
                found[name] = (level, value)
    if "UV_INDEX" in found:  # pip takes a version from whichever index has it; the locks' hashes make that safe
        found["UV_INDEX_STRATEGY"] = (0, "unsafe-best-match")
    return {name: value for name, (_, value) in found.items() if not os.environ.get(name)}


if __name__ == "__main__":
    for variable, value in for_uv().items():
        print(f"export {variable}={shlex.quote(value)}")

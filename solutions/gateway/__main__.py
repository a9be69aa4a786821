"""The gateway's commands.

python -m gateway                          start it (GATEWAY_CONFIG names its TOML file)
python -m gateway keys add NAME            print a new key, and add its hash to keys_file
python -m gateway keys revoke NAME
python -m gateway keys list
"""

import argparse
import secrets
import sys
import tomllib
from pathlib import Path

from pydantic import ValidationError

from gateway.keys import Key, KeyFile, hash_of
from gateway.settings import Limits, Settings


def main() -> None:
    parser = argparse.ArgumentParser("python -m gateway", description="An OpenAI-compatible gateway.")
    keys = parser.add_subparsers(dest="what").add_parser("keys").add_subparsers(dest="command", required=True)
    add = keys.add_parser("add")
    add.add_argument("name")
    add.add_argument("--priority", choices=("paid", "free"), default="free")
    for name, field in Limits.model_fields.items():
        add.add_argument("--" + name.replace("_", "-"), type=float, help=f"default: {field.default}")
    keys.add_parser("revoke").add_argument("name")
    keys.add_parser("list")
    asked = parser.parse_args()
    if asked.what == "keys":
        change_keys(asked, Settings())
    else:
        from gateway.server import run  # loads a web server, which the other commands don't need

        run(Settings())


def change_keys(asked: argparse.Namespace, settings: Settings) -> None:
    """Add, revoke or list keys. A running gateway takes the change up with its next request."""
    file = settings.keys_file
    if file is None:
        sys.exit("The settings name no keys_file. Fix: GATEWAY_KEYS_FILE=keys.json, or keys_file in GATEWAY_CONFIG")
    known = KeyFile.read(file) if file.exists() else KeyFile()
    if asked.command == "add":
        own = {name: value for name in Limits.model_fields if (value := getattr(asked, name)) is not None}
        limits = Limits(**{**settings.limits.model_dump(), **own}) if own else None
        token = "sk-" + secrets.token_urlsafe(32)  # 256 random bits
        known.keys[asked.name] = Key(hash=hash_of(token, known.secret.encode()), priority=asked.priority, limits=limits)
        print(f"The key of {asked.name}, shown this once: {token}")
    elif asked.command == "revoke" and known.keys.pop(asked.name, None) is None:
        sys.exit(f"There is no key {asked.name}.")
    elif asked.command == "list":
        for name, key in known.keys.items():
            print(f"{name}  {key.priority}  {(key.limits or settings.limits).model_dump_json()}")
        return
    known.write(Path(file))


try:
    main()
except ValidationError as e:
    for one in e.errors():
        place = ".".join(map(str, one["loc"]))
        print(f"{place or 'settings'}: {one['msg']}", file=sys.stderr)
    sys.exit(2)
except (OSError, tomllib.TOMLDecodeError) as e:
    sys.exit(f"The configuration can't be read: {e}")

"""The gateway's commands.

python -m gateway                          start it (GATEWAY_CONFIG names its TOML file)
python -m gateway keys add NAME            print a new key, and add its hash to keys_file
python -m gateway keys revoke NAME
python -m gateway keys list
"""

import argparse
import fcntl
import secrets
import sys
import tomllib

from pydantic import ValidationError

from gateway.keys import Key, KeyFile, hash_of
from gateway.settings import Limits, Settings


def main() -> None:
    parser = argparse.ArgumentParser("python -m gateway", description="An OpenAI-compatible gateway.")
    keys = parser.add_subparsers(dest="what").add_parser("keys").add_subparsers(dest="command", required=True)
    add = keys.add_parser("add")
    add.add_argument("name")
    add.add_argument("--priority", choices=("paid", "free"), default="free")
    for name in Limits.model_fields:
        add.add_argument("--" + name.replace("_", "-"), type=float, help="default: that of the settings")
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
    if asked.command == "list":
        known = KeyFile.read(file) if file.exists() else KeyFile()
        for name, key in known.keys.items():
            print(f"{name}  {key.priority}  {settings.limits.replaced_by(key.limits).model_dump_json()}")
        return
    token = "sk-" + secrets.token_urlsafe(32)  # 256 random bits
    with open(file.with_name(f".{file.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # else of two commands at once, one would write away the other's key
        known = KeyFile.read(file) if file.exists() else KeyFile()
        if asked.command == "add":
            known.keys[asked.name] = new_key(asked, settings, known, token)
        elif known.keys.pop(asked.name, None) is None:
            sys.exit(f"There is no key {asked.name}.")
        known.write(file)
    if asked.command == "add":
        print(f"The key of {asked.name}, shown this once: {token}")


def new_key(asked: argparse.Namespace, settings: Settings, known: KeyFile, token: str) -> Key:
    """The key to add. Ends the program if it would not work."""
    if asked.name in known.keys:  # the old key would stop working
        sys.exit(f"{asked.name} has a key already. Fix: choose another name, or first: keys revoke {asked.name}")
    stated = {name: value for name in Limits.model_fields if (value := getattr(asked, name)) is not None}
    limits = Limits(**stated) if stated else None
    try:
        settings.limits.replaced_by(limits).share(settings.workers)
    except ValueError as e:
        sys.exit(f"No key was added: {e}.")
    return Key(hash=hash_of(token, known.secret.encode()), priority=asked.priority, limits=limits)


try:
    main()
except ValidationError as e:
    for one in e.errors():
        place = ".".join(map(str, one["loc"]))
        print(f"{place or 'settings'}: {one['msg']}", file=sys.stderr)
    sys.exit(2)
except (OSError, tomllib.TOMLDecodeError) as e:
    sys.exit(f"The configuration can't be read: {e}")

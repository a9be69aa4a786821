"""Start the gateway: python -m gateway (GATEWAY_CONFIG names its TOML file)."""

import sys
import tomllib

from pydantic import ValidationError

from gateway.server import run
from gateway.settings import Settings

try:
    run(Settings())
except ValidationError as e:
    for one in e.errors():
        place = ".".join(map(str, one["loc"]))
        print(f"{place or 'settings'}: {one['msg']}", file=sys.stderr)
    sys.exit(2)
except (OSError, tomllib.TOMLDecodeError) as e:
    sys.exit(f"The configuration can't be read: {e}")

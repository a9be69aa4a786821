"""Open the chat page of lab 3.3.6 in front of the labs' own Ollama: `make webui`.

With WEBUI_OLLAMA set, it opens in front of that Ollama, and starts none.
"""

import os
import subprocess
import sys

from shared import hardware, models, paths
from shared.errors import command
from shared.launch import launch


@command
def main(arguments: list[str]) -> int:
    env = {**os.environ, "PYTHONPATH": str(paths.REPO / "solutions")}
    if "WEBUI_OLLAMA" in env:
        return page(env, arguments)
    with launch("ollama", models.choose(hardware.detect())) as engine:
        return page({**env, "WEBUI_OLLAMA": engine.url}, arguments)


def page(env: dict[str, str], arguments: list[str]) -> int:
    """Run the page's server until Ctrl+C."""
    try:
        return subprocess.run([sys.executable, "-m", "webui", *arguments], env=env).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Open the chat page of lab 3.3.6: `make webui`.

make webui                                      # in front of the labs' Ollama, which is started and ends with the page
make webui WEBUI_OLLAMA=http://127.0.0.1:11434  # in front of an Ollama that runs already
make webui TREE=labs                            # the student's files, labs/webui

On a machine with a GPU the labs' Ollama gets a small KV cache (container_flags.py): 4 chats of 4096 tokens at once.
ARGS and WEBUI_* variables are passed on to the page's server (solutions/webui/settings.py lists all settings).
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from environment.container_flags import flags_for
from shared import hardware, models, paths
from shared.errors import command
from shared.launch import launch


@command
def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m environment.start_webui")
    parser.add_argument("--tree", default="solutions", choices=("solutions", "labs"))
    asked, rest = parser.parse_known_args(arguments)
    env = {**os.environ, "PYTHONPATH": str(paths.REPO / asked.tree)}
    if env.get("WEBUI_OLLAMA"):
        return run(env, rest)
    machine = hardware.detect()
    with launch("ollama", models.choose(machine), flags_for("ollama", machine)) as engine:
        return run({**env, "WEBUI_OLLAMA": engine.url}, rest)


def run(env: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Run the page's server until Ctrl+C or SIGTERM. It ends its answers first, so it is waited for."""
    server = subprocess.Popen([sys.executable, "-m", "webui", *arguments], env=env)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        return server.wait()
    except KeyboardInterrupt:  # the server has got it, too
        server.wait()
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

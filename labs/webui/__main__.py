"""python -m webui [--port 3000] [--ollama URL] [--gateway URL] [--data FOLDER]

Every setting can be an environment variable, too: WEBUI_PORT, WEBUI_OLLAMA and so on (settings.py lists all).
"""

import argparse
import contextlib
import fcntl
import socket
import sys
from pathlib import Path
from typing import IO, Any

import uvicorn
from pydantic import ValidationError

from webui.app import make_app
from webui.settings import Settings


class Server(uvicorn.Server):
    """Stops the answers before it waits for the pages that listen to them: so they get the end of their answer."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        guard: Any = self.config.app
        await guard.app.state.answers.end()
        await super().shutdown(sockets)


def hold(data: Path) -> IO[str]:
    """Keep the folder for this process. A second server would mark answers as lost while the first writes them."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Linux ends it with the process, also after a crash
    except BlockingIOError:
        sys.exit(f"Another server of this page uses {data}.\nFix: end that one, or choose another --data")
    except OSError as e:
        sys.exit(f"The folder {data} can't be used: {e.strerror}.\nFix: choose another --data")
    return lock


def main() -> None:
    parser = argparse.ArgumentParser("python -m webui", description="A chat page for Ollama.")
    for name, text in {
        "port": "where the page is served (3000)",
        "ollama": "Ollama's address (http://127.0.0.1:11434)",
        "gateway": "an OpenAI-compatible server, to be compared with Ollama",
        "data": "the folder of the history",
    }.items():
        parser.add_argument(f"--{name}", help=text)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    settings = Settings(**given)
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:  # before the history is opened: a second start must not disturb the first
            port.bind((settings.host, settings.port))
        except OSError as e:
            where = f"Port {settings.port} of {settings.host}"
            sys.exit(f"{where} can't be used: {e.strerror}.\nFix: choose another --port")
        lock = hold(settings.data)
        print(f"Open http://{settings.host}:{settings.port} (Ollama: {settings.ollama})", flush=True)
        # A page that is closed leaves its stream open for a moment. It must not hold up the end of the server.
        config = uvicorn.Config(
            make_app(settings),
            log_level="warning",
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=32 * 1024,
        )
        with lock, contextlib.suppress(KeyboardInterrupt):
            Server(config).run(sockets=[port])


try:
    main()
except ValidationError as e:
    sys.exit("\n".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in e.errors()))

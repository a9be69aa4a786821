"""python -m webui [--port 3000] [--ollama URL] [--gateway URL] [--data FOLDER]

Every setting can be an environment variable, too: WEBUI_PORT, WEBUI_OLLAMA and so on (settings.py lists all).
"""

import argparse
import sys

import uvicorn
from pydantic import ValidationError

from webui.app import make_app
from webui.settings import Settings


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
    print(f"Open http://{settings.host}:{settings.port} (Ollama: {settings.ollama})", flush=True)
    # A page that is closed leaves its stream open for a moment. It must not hold up the end of the server.
    uvicorn.run(
        make_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=32 * 1024,
    )


try:
    main()
except ValidationError as e:
    sys.exit("\n".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in e.errors()))

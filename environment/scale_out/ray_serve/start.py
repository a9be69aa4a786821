"""Start Ray Serve LLM with its replicas, and keep it running until Ctrl-C: `make scale-out`.

make scale-out                                  # two replicas of the small model, OpenAI API on port 8000
make scale-out ARGS="--replicas 3 --port 8010"
make scale-out ARGS="--config my-serve.toml"    # another configuration, checked before anything starts
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from environment.scale_out.ray_serve import cluster, configuration
from shared.errors import command
from shared.launch.diagnosis import exit_text, failure

PORT = 8000
EXAMPLE = """
{title} {version} runs {count} of {model} after {seconds:.0f} s.
OpenAI API: {url}/v1
Try it:
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "What is gravity?"}}]}}'
`make gateway` in another terminal puts the gateway in front of it: keys, limits, /metrics and /dashboard.
Ctrl-C ends it.
"""


@command
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make scale-out")
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--config", type=Path, default=configuration.FILE)
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with cluster.start(asked.replicas, port=asked.port, config=asked.config) as running:
        engine = running.engine
        count = "1 replica" if running.replicas == 1 else f"{running.replicas} replicas"
        values = {"title": engine.spec.title, "version": engine.version, "seconds": engine.startup_s}
        print(EXAMPLE.format(count=count, model=engine.served_name, url=engine.url, **values), flush=True)
        try:
            while engine.alive:
                time.sleep(0.5)
        except KeyboardInterrupt:
            print("Ending every process of Ray ...", flush=True)
            return 0
        raise failure(engine, f"{engine.spec.title} has ended. {exit_text(engine)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

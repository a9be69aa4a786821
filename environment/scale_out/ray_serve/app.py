"""Ray with one Ray Serve LLM application. cluster.py runs this file by the Python of Ray's environment.

The only argument is JSON: `ray` (arguments of ray.init), `serving` (of build_openai_app), `port`, `ready` (a file that
is written when every replica runs). It imports nothing of the labs, which that environment doesn't have.
"""

import json
import sys
import threading
from pathlib import Path

import ray
from ray import serve
from ray.serve.llm import build_openai_app


def main() -> None:
    asked = json.loads(sys.argv[1])
    # "local" starts a cluster of its own, even where RAY_ADDRESS names another one.
    ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **asked["ray"])
    serve.start(http_options={"host": "127.0.0.1", "port": asked["port"]})
    serve.run(build_openai_app(asked["serving"]), name="llm", route_prefix="/")  # returns when every replica runs
    Path(asked["ready"]).touch()
    threading.Event().wait()  # until the watchdog ends this process and all of Ray's


if __name__ == "__main__":
    main()

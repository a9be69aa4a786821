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


def listen_on_this_machine_only() -> None:
    """Run in each process of Ray as it starts. A replica's port for other replicas would be open to every machine.

    Requests on it are pickles, so a machine that reaches it can run code here. Ray 2.60 has no setting for its address.
    """
    from ray._common import tls_utils

    add = tls_utils.add_port_to_grpc_server
    tls_utils.add_port_to_grpc_server = lambda server, address: add(server, address.replace("[::]", "127.0.0.1"))


def main() -> None:
    asked = json.loads(sys.argv[1])
    # "local" starts a cluster of its own, even where RAY_ADDRESS names another one.
    ray.init(
        address="local",
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"worker_process_setup_hook": listen_on_this_machine_only},
        **asked["ray"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": asked["port"]})
    serve.run(build_openai_app(asked["serving"]), name="llm", route_prefix="/")  # returns when every replica runs
    Path(asked["ready"]).touch()
    threading.Event().wait()  # until the watchdog ends this process and all of Ray's


if __name__ == "__main__":
    main()

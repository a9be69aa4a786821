"""Two DGX Sparks that serve one model together: their start scripts, from one file. Not verified on hardware.

make two-sparks                          # write the scripts from environment/scale_out/two_sparks.toml
make two-sparks ARGS="--config my.toml"  # from another file
make two-sparks ARGS=--check             # on the head: check both machines and the link, before anything is loaded
make two-sparks ARGS="--check --ray"     # the same for the scripts with Ray

vLLM splits the model over the two GPUs (tensor parallel 2). It needs no Ray for that: each machine runs `vllm serve`
with its rank, and the worker has no API (`--headless`). The scripts with Ray are here for those who have a Ray cluster.
vLLM's image contains no Ray since version 0.19 (https://github.com/kubernetes-sigs/lws/issues/835, 2026-05-01), so a
script builds an image with it. Sources of the settings: vLLM's "Parallelism and Scaling"
(https://docs.vllm.ai/en/latest/serving/parallelism_scaling/, 2026-11-26) and NVIDIA's playbooks for two Sparks
(https://github.com/NVIDIA/dgx-spark-playbooks, 2026-08).
"""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from environment.scale_out.two_sparks_config import CONFIG, RAY, RAY_IMAGE, Pair, read
from environment.scale_out.two_sparks_preflight import preflight, report
from shared import LabError, files, paths
from shared.engines import ENGINES, LaunchPlan, as_arguments
from shared.engines.published_flags import unknown
from shared.errors import command
from shared.launch import containers
from shared.models.hub import INSIDE as HUB_INSIDE

VLLM = ENGINES["vllm"]
MACHINES = ("head", "worker")  # by their rank
HEADER = """\
#!/usr/bin/env bash
# Made by `make two-sparks`. Not verified on hardware.
# {what}
set -euo pipefail
"""


def serve(pair: Pair, rank: int, ray: bool) -> list[str]:
    """The `docker run` of one machine, as the launcher composes it, with what two machines need besides.

    Raises LabError if docker or vLLM publishes no such flag.
    """
    name, spark = MACHINES[rank], (pair.head, pair.worker)[rank]
    used = pair.needed.total - pair.needed.reserve
    share = math.ceil(100 * used / pair.memory_gib) / 100
    plan = LaunchPlan(
        home=Path("/labs"),
        model=pair.model,
        precision=pair.precision,
        port=pair.port,
        cores=0,  # of no meaning in a container
        flags=pair.flags,
        weights=f"{HUB_INSIDE}/{pair.snapshot}",
        kv_bytes=int(pair.needed.kv * 2**30),
        share=share,
    )
    line = containers.run_command(
        VLLM,
        plan,
        [*as_arguments(pair.flags), "--tensor-parallel-size", "2", *executor(pair, rank, ray)],
        name=f"{containers.LABEL}-two-sparks-{name}",
        label=f"{containers.LABEL}=two-sparks",
        port=pair.port,
        hub=Path(spark.hub),
        gpu=pair.gpu,
    )
    # Both containers use their machine's own network and RDMA devices. So the API is not published by docker, and
    # listens on 127.0.0.1 by its own setting.
    publish = line.index("--publish")
    variables = [word for key, value in spark.environment().items() for word in ("--env", f"{key}={value}")]
    line[publish : publish + 2] = ["--network", "host", "--device", "/dev/infiniband", *variables]
    line[line.index("0.0.0.0")] = "127.0.0.1"
    image = line.index(containers.images()[VLLM.container.image].reference)
    arguments = line[image + 1 :]
    if faults := unknown("docker", line[: image + 1]) + unknown("vllm", ["vllm", "serve", *arguments]):
        raise LabError(f"These start commands can't work: {'; '.join(faults)}.", "correct [flags] or gpu in the file")
    if not ray:
        return line
    meet = f"{pair.head.address}:{pair.ray_port}"
    begin = ["ray", "start", f"--node-ip-address={spark.address}"]
    if rank:
        inside = shlex.join([*begin, f"--address={meet}", "--block"])
    else:
        begin += ["--head", f"--port={pair.ray_port}", "--include-dashboard=false", "--disable-usage-stats"]
        inside = f"{shlex.join(begin)} && exec {shlex.join(['vllm', 'serve', *arguments])}"
    return [*line[:image], "--entrypoint", "/bin/bash", RAY_IMAGE, "-c", inside]


def executor(pair: Pair, rank: int, ray: bool) -> list[str]:
    """How vLLM finds its second half."""
    if ray:
        return ["--distributed-executor-backend", "ray"]
    meet = ["--master-addr", pair.head.address, "--master-port", str(pair.master_port)]
    nodes = ["--nnodes", "2", "--node-rank", str(rank), *meet]
    return ["--distributed-executor-backend", "mp", *nodes, *(["--headless"] if rank else [])]


def scripts(pair: Pair) -> dict[str, str]:
    """Every script by its file name, in the order in which they are started."""
    image = containers.images()[VLLM.container.image].reference
    build = (
        f'printf "FROM %s\\nRUN pip install ray=={RAY}\\n" {shlex.quote(image)} | docker build --tag {RAY_IMAGE} -\n'
        f"docker save {RAY_IMAGE} | ssh {shlex.quote(pair.worker.ssh)} docker load\n"
    )
    texts = {
        "1-worker.sh": ("On the worker, first. It waits for the head.", one_command(serve(pair, 1, ray=False))),
        "2-head.sh": ("On the head, second. The API answers when both halves are loaded.",
                      one_command(serve(pair, 0, ray=False))),
        "ray-0-image.sh": ("On the head, once: vLLM's image has no Ray. The worker gets the same image.", build),
        "ray-1-head.sh": ("On the head, first: the worker joins its Ray. vLLM then waits for the worker's GPU.",
                          one_command(serve(pair, 0, ray=True))),
        "ray-2-worker.sh": ("On the worker, second.", one_command(serve(pair, 1, ray=True))),
    }  # fmt: skip
    return {name: HEADER.format(what=what) + text for name, (what, text) in texts.items()}


def one_command(words: Sequence[str]) -> str:
    """A command for bash, with each flag, and the image, on a line of its own."""
    images = (containers.images()[VLLM.container.image].reference, RAY_IMAGE)
    begins = [word.startswith("--") or word in images for word in words]
    text = " ".join(("\\\n    " if b else "") + shlex.quote(word) for word, b in zip(words, begins, strict=True))
    return f"exec {text}\n"


@command
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make two-sparks")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--to", type=Path, default=paths.state() / "two_sparks")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--ray", action="store_true")
    asked = parser.parse_args(arguments)
    pair = read(asked.config)
    print("Two Sparks: not verified on hardware.")
    if asked.check:
        checks = preflight(pair, ray=asked.ray)
        print(report(checks))
        return int(not all(check.ok for check in checks))
    for name, text in scripts(pair).items():
        files.write(asked.to / name, text.encode())
        (asked.to / name).chmod(0o755)
        print(f"{asked.to / name}: {text.splitlines()[2].removeprefix('# ')}")
    print(f"Each machine: {pair.needed}.")
    print(f"Copy them to the worker: scp {asked.to}/*.sh {pair.worker.ssh}:")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

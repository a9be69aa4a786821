"""Every `docker run` of the labs, as text: per engine, machine and precision, plain and with each draft.

.venv/bin/python -m tests.helpers.container_commands > tests/helpers/container_commands.txt     # after a change that
was meant
"""

import json
from collections.abc import Iterator
from pathlib import Path

from shared.engines import ENGINES, Draft, EngineSpec, Flags, LaunchPlan, as_arguments
from shared.engines.spec import DRAFTS as CAPABILITY
from shared.engines.spec import Speculation
from shared.hardware import Machine, detect
from shared.hardware.gpu import docker_gpu_arguments
from shared.launch import containers, memory
from shared.models import ModelChoice, choice
from shared.models.catalogue import LLAMA_8B, QWEN_1B, Source, entry
from shared.models.hub import INSIDE as HUB_INSIDE
from tests import machines

FLAGS: dict[str, Flags] = {  # those of lab 3.3.1: 16 users, 2048 tokens each
    "ollama": {"OLLAMA_NUM_PARALLEL": 16, "OLLAMA_CONTEXT_LENGTH": 2048},
    "llamacpp": {"-np": 16, "-c": 16 * 2048},
    "vllm": {"--max-num-seqs": 16, "--max-model-len": 2048},
    "sglang": {
        "--max-running-requests": 16,
        "--max-total-tokens": 16 * 2048,
        "--context-length": 2048,
        "--disable-radix-cache": True,
    },
    "trtllm": {"--max_batch_size": 16, "--max_seq_len": 2048},
}
MACHINES = {"dgx-spark": LLAMA_8B, "gb10-64gb": LLAMA_8B, "h100": LLAMA_8B, "wsl": QWEN_1B}


DRAFTS = (None, Draft("eagle3", 3), Draft("model", 3), Draft("ngram", 8))


def inside(source: Source) -> str:
    return f"{HUB_INSIDE}/hub/{source.repository}/{source.file}".rstrip("/")


def speculation(spec: EngineSpec, model: ModelChoice, draft: Draft | None) -> Speculation | None:
    """What `launch` makes of the draft, without fetching it. None if the engine or the catalogue lacks it."""
    if draft is None or spec.container.speculate is None:
        return None
    if draft.kind == "ngram":
        return Speculation(draft, spec.container.speculate(draft, ""))
    source = model.drafts.get(f"{spec.name} {CAPABILITY[draft.kind]}")
    if source is None:
        return None
    return Speculation(draft, spec.container.speculate(draft, inside(source)), source.pinned, source.bytes or 0)


def started(
    spec: EngineSpec, model: ModelChoice, precision: str, flags: Flags, machine: Machine, drafts: Speculation | None
) -> tuple[LaunchPlan, list[str]]:
    """What `launch` makes of this, up to the command."""
    needed = memory.need(spec, model, precision, flags, machine, drafts)
    port = containers.images()[spec.container.image].port
    start = LaunchPlan(
        Path("/labs"),
        model,
        precision,
        port,
        machine.cores,
        flags,
        inside(model.source(spec.reads, precision)),
        int(needed.kv * 2**30),
        memory.share(needed, machine),
        drafts,
    )
    given = {flag: value for flag, value in start.every_flag.items() if flag.startswith("-")}
    return start, as_arguments(given) if spec.flags_in == "arguments" else []


def commands() -> Iterator[tuple[str, str, LaunchPlan, list[str]]]:
    """Title, engine, start and `docker run` of each."""
    for name, published in MACHINES.items():
        host = machines.machine(name)
        machine = detect(host)
        model = choice.from_catalogue_entry(entry(published), "3.3.4", token=False)
        for spec in ENGINES.values():
            for precision in spec.container.precisions:
                if f"{spec.reads} {precision}" not in model.sources:
                    continue
                for draft in DRAFTS if precision == "BF16" else (None,):
                    drafts = speculation(spec, model, draft)
                    if draft and drafts is None:
                        continue
                    how = f", {CAPABILITY[draft.kind]}" if draft else ""
                    start, given = started(spec, model, precision, FLAGS[spec.name], machine, drafts)
                    command = containers.run_command(
                        spec,
                        start,
                        given,
                        name=f"inference-engine-labs-{spec.name}-4711",
                        label=f"{containers.LABEL}=LAUNCH",
                        port=4711,
                        hub=Path("/hub"),
                        gpu=docker_gpu_arguments(host),
                    )
                    yield f"{name}, {spec.title}, {precision}{how}", spec.name, start, command


def text() -> str:
    """A block for each: what docker is told, the image and what it is told, and the files that it reads."""
    out = []
    for title, engine, start, command in commands():
        image = command.index(containers.images()[ENGINES[engine].container.image].reference)
        files = [f"  {name}: {json.loads(said)}" for name, said in ENGINES[engine].container.files(start).items()]
        out.append("\n".join([f"# {title}", " ".join(command[:image]), "  " + " ".join(command[image:]), *files]))
    return "\n\n".join(out) + "\n"


if __name__ == "__main__":
    print(text(), end="")

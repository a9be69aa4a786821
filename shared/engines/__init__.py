"""Every engine of the course as data, one file each."""

from shared.engines import llamacpp, ollama, sglang, trtllm, vllm
from shared.engines.spec import CAPABILITIES, Draft, EngineSpec, Flags, LaunchPlan, as_arguments

ENGINES: dict[str, EngineSpec] = {
    spec.name: spec for spec in (ollama.SPEC, llamacpp.SPEC, vllm.SPEC, sglang.SPEC, trtllm.SPEC)
}

__all__ = ["CAPABILITIES", "ENGINES", "Draft", "EngineSpec", "Flags", "LaunchPlan", "as_arguments", "matrix"]


def matrix(runner: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What each engine can do when started by this runner, as header and rows. Each "no" has its reason."""
    header = ("engine", *CAPABILITIES)
    rows = [
        (spec.title, *(f"no: {why}" if (why := spec.why_not(runner, c)) else "yes" for c in CAPABILITIES))
        for spec in ENGINES.values()
    ]
    return header, rows

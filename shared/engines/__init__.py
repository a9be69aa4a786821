"""Every engine of the module, one file each, as data."""

from shared.engines import llamacpp, vllm
from shared.engines.spec import EngineSpec, Flags, Start, as_arguments

ENGINES: dict[str, EngineSpec] = {spec.name: spec for spec in (llamacpp.SPEC, vllm.SPEC)}

__all__ = ["ENGINES", "EngineSpec", "Flags", "Start", "as_arguments"]

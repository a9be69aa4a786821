"""The processor: its name, its instruction sets, and the number format in which engines compute on it."""

import functools
import hashlib

from shared.hardware.host import HERE, Host, cpuinfo

BYTES_PER_VALUE = {
    "": 2,
    "bfloat16": 2,
    "float32": 4,
}  # of weights, keys and values, by the format that engines compute in


@functools.cache
def processor_name(host: Host = HERE) -> str:
    name = cpuinfo("model name", "Model", host=host)
    if name is None:  # on arm64 that file has only part numbers, but lscpu prints names
        lines = host.run("lscpu").out.splitlines()
        name = " + ".join(line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("Model name:"))
    return name or f"unnamed {host.architecture()} processor"


def bf16_products(host: Host = HERE) -> list[str]:
    """The processor's instruction sets with which torch multiplies BF16 fast. Without any of them, float32 is faster.

    On two cores vLLM served 32 users five times as fast in float32 with AVX2 only (measured 2026-11-25). With AVX-512
    but without its BF16 instructions it was 2.5 times, and a product of 512 rows took a fifth (measured 2026-11-27).
    """
    flags = (cpuinfo("flags", "Features", host=host) or "").split()
    return [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]


def torch_dtype(host: Host = HERE) -> str:
    """The --dtype with which engines on torch start on this processor."""
    return "bfloat16" if bf16_products(host) else "float32"


def cpu_flags() -> str:
    """A short hash of this processor's instruction set. A program compiled for one may not run on another."""
    return hashlib.sha256((cpuinfo("flags", "Features") or "").encode()).hexdigest()[:8]

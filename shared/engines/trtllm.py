"""TensorRT-LLM's server. It needs an NVIDIA GPU for everything: nobody here has run it."""

from shared.engines.spec import EngineSpec, Start


def command(start: Start) -> list[str]:
    return [
        "trtllm-serve", str(start.model.weights("hf")),
        "--host", "127.0.0.1", "--port", str(start.port),
    ]  # fmt: skip


SPEC = EngineSpec(
    name="trtllm",
    title="TensorRT-LLM",
    command=command,
    env=lambda _: {},
    precisions=("BF16",),
    reads="hf",
    token_ids="vllm",
    port=8000,
    metrics="/prometheus/metrics",
    unavailable="it needs an NVIDIA GPU, and the labs don't start its container yet",
)

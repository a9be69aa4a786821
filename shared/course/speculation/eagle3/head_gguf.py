"""A head for llama.cpp: the checkpoint of `environment/eagle3_head` as a GGUF file, made on first use.

llama.cpp's own `convert_hf_to_gguf.py --target-model-dir` does the same, but it is part of llama.cpp's source archive,
and knows a tokenizer only by a list. Here the tokenizer is copied from the model's own GGUF, so both always agree. The
tensors of both files were compared once and are equal (llama-cpp-python 0.3.36, 2026-11-26). Two things change on the
way: rows of the query and key matrices are reordered, because llama.cpp rotates neighbouring values where Hugging Face
rotates halves, and `d2t` holds the numbers of the tokens themselves.
"""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared import files, paths
from shared.course.speculation.eagle3 import head_files
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.target_states import aux_layers
from shared.models.choice import ModelChoice
from shared.models.weights import sha256

HEAD = paths.REPO / "environment" / "eagle3_head"
NAMES = {
    "fc": "fc",
    "norm": "output_norm",
    "lm_head": "output",
    "midlayer.input_layernorm": "blk.0.attn_norm",
    "midlayer.hidden_norm": "blk.0.attn_norm_2",
    "midlayer.self_attn.q_proj": "blk.0.attn_q",
    "midlayer.self_attn.k_proj": "blk.0.attn_k",
    "midlayer.self_attn.v_proj": "blk.0.attn_v",
    "midlayer.self_attn.o_proj": "blk.0.attn_output",
    "midlayer.post_attention_layernorm": "blk.0.ffn_norm",
    "midlayer.mlp.gate_proj": "blk.0.ffn_gate",
    "midlayer.mlp.up_proj": "blk.0.ffn_up",
    "midlayer.mlp.down_proj": "blk.0.ffn_down",
}


def path(model: ModelChoice, head: Path = HEAD) -> Path:
    """The GGUF of this head for this model, in the cache. Raises LabError if the head doesn't fit the model."""
    target = head_files.read_config(model.weights("hf"))
    file = paths.cache() / "models" / f"eagle3-head-{sha256(head / head_files.WEIGHTS)[:12]}.gguf"
    if not file.exists():
        loaded = head_files.load(head, target)
        with files.writing(file):
            write(loaded, model.layers, model.weights("BF16"), file)
    return file


def write(head: Eagle3Head, layers: int, model_gguf: Path, file: Path) -> None:
    """Write the head for the model of `model_gguf`, which has so many layers."""
    shape, temporary = head.shape, file.with_suffix(".new")
    reader = gguf.GGUFReader(model_gguf)
    writer = gguf.GGUFWriter(temporary, "eagle3")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(1)
    writer.add_context_length(int(reader.fields["llama.context_length"].contents()))
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_array("eagle3.target_layers", list(aux_layers(layers)))
    writer.add_uint32("eagle3.target_hidden_size", shape.hidden)
    writer.add_bool("eagle3.norm_before_residual", False)
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            kind, *of = field.types
            writer.add_key_value(key, field.contents(), kind, of[0] if of else None)
    weights = head.state_dict()
    for ours, theirs in NAMES.items():
        tensor = weights[f"{ours}.weight"]
        if ours.endswith(("q_proj", "k_proj")):
            tensor = neighbours(tensor, shape.heads if ours.endswith("q_proj") else shape.kv_heads)
        if tensor.ndim == 1:  # llama.cpp computes norms in float32
            writer.add_tensor(f"{theirs}.weight", tensor.bfloat16().float().numpy())
        else:
            writer.add_tensor(f"{theirs}.weight", as_bytes(tensor), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("d2t", head.draft_tokens.numpy().astype(np.int64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files.commit(temporary, file)


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix reordered: value i of the first half of a head, then value i of the second."""
    halves = weight.unflatten(0, (heads, 2, -1))  # [heads, 2, head_dim / 2, inputs]
    return halves.transpose(1, 2).reshape(weight.shape)


def as_bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """A matrix in BF16 as the bytes of its rows."""
    stored = tensor.bfloat16().contiguous().view(torch.uint8)
    return np.asarray(stored.numpy())

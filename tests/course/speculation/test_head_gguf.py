"""The head as a GGUF file: llama.cpp's names and shapes, the model's tokenizer, the same attention."""

from pathlib import Path

import gguf
import torch

from shared.course.speculation.eagle3 import head_gguf
from shared.course.speculation.eagle3.head import Eagle3Head, HeadShape
from shared.models import ModelChoice


def test_reordered_rows_give_the_same_scores() -> None:
    """llama.cpp rotates the values 2i and 2i + 1 together, torch the values i and i + half."""
    torch.manual_seed(0)
    heads, half, inputs = 3, 4, 10
    angle, x, y = torch.rand(half), torch.randn(inputs), torch.randn(inputs)
    a, b = torch.randn(heads * 2 * half, inputs), torch.randn(heads * 2 * half, inputs)

    def halves(v: torch.Tensor) -> torch.Tensor:
        first, second = v.view(heads, 2, half).unbind(1)
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)

    def pairs(v: torch.Tensor) -> torch.Tensor:
        first, second = v.view(heads, half, 2).unbind(-1)
        turned = (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin())
        return torch.stack(turned, -1).flatten(1)

    ours = (halves(a @ x) * halves(b @ y)).sum(-1)
    theirs = (pairs(head_gguf.neighbours(a, heads) @ x) * pairs(head_gguf.neighbours(b, heads) @ y)).sum(-1)
    torch.testing.assert_close(ours, theirs)


def test_the_file_has_llamacpps_names_and_the_models_tokenizer(model: ModelChoice, tmp_path: Path) -> None:
    shape = HeadShape(
        hidden=64, intermediate=32, heads=4, kv_heads=2, head_dim=16, vocabulary=49_152, draft_vocabulary=96
    )
    head = Eagle3Head(shape, range(500, 596))
    head_gguf.write(head, model.layers, model.weights("BF16"), tmp_path / "head.gguf")
    written, own = gguf.GGUFReader(tmp_path / "head.gguf"), gguf.GGUFReader(model.weights("BF16"))
    assert {tensor.name: list(map(int, tensor.shape)) for tensor in written.tensors} == {
        "fc.weight": [192, 64], "output_norm.weight": [64], "output.weight": [64, 96], "d2t": [96],
        "blk.0.attn_norm.weight": [64], "blk.0.attn_norm_2.weight": [64], "blk.0.attn_q.weight": [128, 64],
        "blk.0.attn_k.weight": [128, 32], "blk.0.attn_v.weight": [128, 32], "blk.0.attn_output.weight": [64, 64],
        "blk.0.ffn_norm.weight": [64], "blk.0.ffn_gate.weight": [64, 32], "blk.0.ffn_up.weight": [64, 32],
        "blk.0.ffn_down.weight": [32, 64],
    }  # fmt: skip
    [d2t] = [tensor.data.tolist() for tensor in written.tensors if tensor.name == "d2t"]
    assert d2t == list(range(500, 596))
    assert written.fields["eagle3.target_layers"].contents() == [2, 15, 27]
    for key, field in own.fields.items():
        if key.startswith("tokenizer."):
            assert written.fields[key].contents() == field.contents(), key

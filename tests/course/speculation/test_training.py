"""Training on a tiny model: the loss falls, a checkpoint resumes exactly, the files are complete."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shared import LabError
from shared.course.speculation.eagle3 import acceptance, head_files, training_text
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.target_states import LiveStates, StoredStates, TargetStates, aux_layers, states_of
from shared.course.speculation.eagle3.training import Settings, Training, batch_of, batches, rate_at
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.engines import draft_checks
from shared.models.llama import Llama

torch.set_num_threads(1)  # on tensors as small as these, a second thread only waits for the first
VOCABULARY, DRAFTS = 60, 40
TARGET: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu",
    "tie_word_embeddings": True, "eos_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> Llama:
    """A model with random weights."""
    torch.manual_seed(1)
    hidden, kv, mlp = 32, 16, 48
    shapes = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp),
    }  # fmt: skip
    weights = {
        f"model.layers.{layer}.{name}.weight": torch.randn(shape) / shape[-1] ** 0.5
        for layer in range(8)
        for name, shape in shapes.items()
    }
    weights["model.embed_tokens.weight"] = torch.randn(VOCABULARY, hidden)
    weights["model.norm.weight"] = torch.ones(hidden)
    return Llama(TARGET, weights, None)


@pytest.fixture(scope="module")
def text(llama: Llama) -> TrainingText:
    """24 random prompts with the model's own greedy answers; the last four are held out."""
    draw = np.random.default_rng(2)
    prompts = [draw.integers(1, VOCABULARY, 4 + number % 5).tolist() for number in range(24)]
    answers = llama.generate(prompts, 16, stop_at_eos=False)
    return training_text.pack(
        [
            {
                "number": number, "group": training_text.GROUPS[number % 4], "held_out": number >= 20,
                "temperature": 0.0, "prompt": prompt, "answer": answer,
            }
            for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
    )  # fmt: skip


@pytest.fixture
def states(llama: Llama, text: TrainingText, tmp_path: Path) -> TargetStates:
    stored = StoredStates(tmp_path, text, llama.hidden)
    stored.compute(llama, range(len(text)))
    return stored


def new_head() -> Eagle3Head:
    torch.manual_seed(4)
    return Eagle3Head(head_files.shape_for(TARGET, DRAFTS, 48), range(DRAFTS))


@pytest.fixture(params=["bfloat16", "float32"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products in either format, whatever this processor multiplies fast."""
    monkeypatch.setattr("shared.course.speculation.eagle3.training.torch_dtype", lambda: request.param)


@pytest.mark.usefixtures("products")
def test_ten_updates_lower_the_loss(llama: Llama, text: TrainingText, states: TargetStates) -> None:
    head, rows = new_head(), text.rows(held_out=False)
    run = Training(head, llama.embedding, llama.output, torch.ones(96), Settings(updates=10, one_step=0, rows=20))
    run.run(text, states, rows, report=lambda line: None)
    assert len(run.losses) == 10
    assert run.losses[-1] < 0.9 * run.losses[0]


@pytest.mark.usefixtures("products")
def test_training_learns_the_models_next_token(llama: Llama, text: TrainingText, states: TargetStates) -> None:
    head, rows = new_head(), text.rows(held_out=False)
    before = acceptance.measure(head, llama.embedding, text, states, rows, steps=3)
    run = Training(head, llama.embedding, llama.output, torch.ones(96), Settings(updates=150, rows=10, rate=5e-3))
    run.run(text, states, rows, report=lambda line: None)
    after = acceptance.measure(head, llama.embedding, text, states, rows, steps=3)
    assert after.positions == before.positions == 20 * (16 - 3)
    # A draft vocabulary of 40 of 60 tokens can't reach more than the share of the text that it covers.
    assert before.each[0] + 0.2 < after.each[0] <= acceptance.coverage(range(DRAFTS), text, rows) + 0.05
    assert after.first == tuple(sorted(after.first, reverse=True))
    assert after.tokens_per_pass(2) == pytest.approx(1 + after.first[0] + after.first[1])


def test_parts_are_weighted_by_their_positions() -> None:
    parts = [acceptance.Acceptance(30, (0.9, 0.6), (0.9, 0.5)), acceptance.Acceptance(10, (0.5, 0.2), (0.5, 0.1))]
    whole = acceptance.together(parts)
    assert whole.positions == 40
    assert whole.each == pytest.approx((0.8, 0.5))
    assert whole.first == pytest.approx((0.8, 0.4))


def test_a_checkpoint_resumes_where_training_stopped(
    llama: Llama, text: TrainingText, states: TargetStates, tmp_path: Path
) -> None:
    rows = text.rows(held_out=False)

    def trained(updates: list[int], checkpoint: Path | None) -> Eagle3Head:
        for stop in updates:
            head = new_head()
            run = Training(
                head, llama.embedding, llama.output, torch.ones(96), Settings(updates=12, rows=4), checkpoint
            )
            for chosen in batches(text, rows, 4, run.update):
                if run.update >= stop:
                    break
                run.step(batch_of(text, states, chosen))
            run.save()
        return head

    whole, resumed = trained([12], None), trained([5, 12], tmp_path / "checkpoint.pt")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(tensor, resumed.state_dict()[name], msg=name)


def test_each_row_is_seen_once_an_epoch(text: TrainingText) -> None:
    rows = text.rows(held_out=False)
    endless = batches(text, rows, 4, 0)
    epoch = [row for _ in range(len(rows) // 4) for row in next(endless)]
    assert sorted(epoch) == rows
    later = batches(text, rows, 4, 2)
    assert next(later) == epoch[8:12]


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    settings = Settings(updates=1000, rate=1.0, decay=0.4)
    rates = [rate_at(update, settings) for update in range(1000)]
    assert rates[0] == pytest.approx(1 / 30)
    assert set(rates[30:600]) == {1.0}
    assert rates[600:] == sorted(rates[600:], reverse=True)
    assert rates[999] == pytest.approx(1 / 400)


def test_states_are_the_inputs_of_three_layers_and_what_gives_the_logits(llama: Llama, text: TrainingText) -> None:
    assert aux_layers(30) == (2, 15, 27)
    row = torch.from_numpy(text.row(3))
    [states] = states_of(llama, [row])
    logits = llama.forward(row[None], llama.new_cache(1, len(row)), every=True)[0]
    torch.testing.assert_close(states[:, 3 * llama.hidden :].float() @ llama.output.T, logits, rtol=0.05, atol=0.05)
    for place, layer in enumerate(aux_layers(llama.layers)):
        shorter = Llama.__new__(Llama)
        shorter.__dict__ = {**vars(llama), "layers": layer}  # the same model, cut before this layer
        taps = {layer: torch.empty(0)}
        shorter.forward(row[None], shorter.new_cache(1, len(row)), taps=taps)
        part = states[:, place * llama.hidden : (place + 1) * llama.hidden]
        assert torch.equal(part, taps[layer][0].bfloat16())


def test_states_are_kept_when_the_text_grows(llama: Llama, text: TrainingText, tmp_path: Path) -> None:
    answers = [
        {
            "number": int(text.numbers[n]), "group": "code", "held_out": False, "temperature": 0.0,
            "prompt": text.row(n)[:3].tolist(), "answer": text.row(n)[3:].tolist(),
        }
        for n in (5, 9, 7)
    ]  # fmt: skip
    small = training_text.pack(answers[:2])
    first = StoredStates(tmp_path, small, llama.hidden)
    first.compute(llama, [0])
    with pytest.raises(KeyError, match="row 1"):
        first.rows([1])
    grown = training_text.pack(answers[1:], small)  # number 9 is there already
    assert grown.numbers.tolist() == [5, 9, 7]
    assert [grown.row(n).tolist() for n in range(3)] == [text.row(n).tolist() for n in (5, 9, 7)]
    assert training_text.pack(answers, grown) is grown
    with pytest.raises(LabError, match="no answers"):
        training_text.pack([])
    second = StoredStates(tmp_path, grown, llama.hidden)
    assert second.done.tolist() == [True, False, False]
    assert torch.equal(second.rows([0])[0], first.rows([0])[0])
    second.compute(llama, range(3))
    live = LiveStates(llama, grown).rows([2, 0])
    for stored, fresh in zip(second.rows([2, 0]), live, strict=True):
        torch.testing.assert_close(stored.float(), fresh.float(), rtol=0.02, atol=0.02)


def test_the_exported_head_has_the_names_and_shapes_that_engines_expect(tmp_path: Path) -> None:
    head = new_head()
    head_files.save(head, TARGET, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert shapes == {
        "d2t": (40,), "t2d": (60,), "fc.weight": (32, 96), "norm.weight": (32,), "lm_head.weight": (40, 32),
        "midlayer.input_layernorm.weight": (32,), "midlayer.hidden_norm.weight": (32,),
        "midlayer.post_attention_layernorm.weight": (32,), "midlayer.self_attn.q_proj.weight": (32, 64),
        "midlayer.self_attn.k_proj.weight": (16, 64), "midlayer.self_attn.v_proj.weight": (16, 64),
        "midlayer.self_attn.o_proj.weight": (32, 32), "midlayer.mlp.gate_proj.weight": (48, 32),
        "midlayer.mlp.up_proj.weight": (48, 32), "midlayer.mlp.down_proj.weight": (32, 48),
    }  # fmt: skip
    kinds = {name: tensor.dtype for name, tensor in stored.items()}
    assert (kinds.pop("d2t"), kinds.pop("t2d")) == (torch.int64, torch.bool)
    assert set(kinds.values()) == {torch.bfloat16}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert (config["num_hidden_layers"], config["draft_vocab_size"], config["target_hidden_size"]) == (1, 40, 32)
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 4, 5]
    again = head_files.load(tmp_path, TARGET)
    torch.testing.assert_close(again.fc.weight, head.fc.weight, rtol=0.01, atol=0.01)
    assert torch.equal(again.d2t, head.d2t)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 64}, "target_hidden_size is 32, but the model's hidden_size is 64"),
        ({"vocab_size": 61}, "vocab_size is 60, but the model's vocab_size is 61"),
        ({"num_hidden_layers": 5}, "needs the input of layer 5, but the model has 5 layers"),
    ],
)
def test_a_head_of_another_model_is_refused(tmp_path: Path, change: dict[str, int], said: str) -> None:
    head_files.save(new_head(), TARGET, tmp_path)
    with pytest.raises(LabError, match=said):
        head_files.load(tmp_path, {**TARGET, **change})


def test_a_head_without_its_layers_or_of_another_class_is_refused(tmp_path: Path) -> None:
    head_files.save(new_head(), TARGET, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "names none" in draft_checks.head_fault({**config, "eagle_aux_hidden_state_layer_ids": None}, TARGET)
    assert "LlamaForCausalLM, not" in draft_checks.head_fault({**config, "architectures": ["LlamaForCausalLM"]}, TARGET)
    (tmp_path / "config.json").write_text(json.dumps({**config, "draft_vocab_size": 39}))
    with pytest.raises(LabError):
        head_files.load(tmp_path, TARGET)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LabError, match="No head can be read"):
        head_files.load(tmp_path, TARGET)


def test_a_damaged_text_is_refused(text: TrainingText, tmp_path: Path) -> None:
    file = tmp_path / "text.npz"
    text.save(file)
    again = training_text.load(file)
    assert [again.row(n).tolist() for n in range(len(again))] == [text.row(n).tolist() for n in range(len(text))]
    training_text.TrainingText(**{**vars(text), "starts": text.starts[:-1]}).save(file)
    with pytest.raises(LabError, match="don't belong together"):
        training_text.load(file)
    file.write_bytes(b"nothing")
    with pytest.raises(LabError, match="can't be read"):
        training_text.load(file)

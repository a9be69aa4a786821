"""The optional training of lab 3.3.4, on a random model: its begin, the order of measurements, the table."""

from typing import Any

import numpy as np
import pytest
import torch

from shared.course.speculation.eagle3 import train_a_head, training_text
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.head_files import shape_for
from shared.errors import LabError
from tests.helpers.tiny_llama import CONFIGS, tiny


def test_a_half_trained_head_lies_between_an_untrained_and_a_trained_one() -> None:
    torch.manual_seed(1)
    shape = shape_for(CONFIGS["llama"].to_dict(), 40, 48)
    untrained, trained = (Eagle3Head(shape, range(3, 43)) for _ in range(2))
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    half = train_a_head.part_way(untrained, trained, 0.5)
    for name, value in half.state_dict().items():
        low, high = untrained.state_dict()[name], before[name]
        assert torch.equal(trained.state_dict()[name], high), "it is not changed"
        expected = (low + high) / 2 if value.is_floating_point() else high
        assert torch.allclose(value.double(), expected.double()), name
    assert half.draft_tokens.tolist() == list(range(3, 43))
    same = train_a_head.part_way(untrained, trained, 1).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in same.items())


@pytest.mark.parametrize("updates", [-5, 2.5, "60"])
def test_a_number_of_updates_that_training_never_reaches_is_refused(updates: Any) -> None:
    nothing: Any = None
    with pytest.raises(LabError, match="can't be trained with"):
        train_a_head.watch(nothing, nothing, updates)


def test_a_half_trained_head_is_judged_before_on_the_way_and_beside_the_ready_one() -> None:
    config = CONFIGS["llama"].to_dict() | {"num_hidden_layers": 8}
    llama, _ = tiny(type(CONFIGS["llama"])(**config))
    draw = np.random.default_rng(2)
    prompts = [draw.integers(3, 300, 6).tolist() for _ in range(20)]
    answers = llama.generate(prompts, 16, stop_at_eos=False)
    text = training_text.pack(
        [
            {
                "number": number, "group": "held-out topics" if number >= 16 else "trained topics",
                "held_out": number >= 16, "temperature": 0.0, "prompt": prompt, "answer": answer,
            }
            for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
    )  # fmt: skip
    torch.manual_seed(5)
    ready = Eagle3Head(shape_for(config, 40, 48), range(40))
    before = torch.get_rng_state()
    lines: list[str] = []
    history = train_a_head.train(llama, text, ready, updates=6, report=lines.append)
    assert torch.equal(torch.get_rng_state(), before)
    names = [one["head"] for one in history]
    on_the_way = [f"after {number} updates" for number in range(1, 7)]
    assert names == ["untrained", "half-trained", *on_the_way, "this lab's head"]
    assert len(lines) == len(history)
    assert [one["loss_nats"] is None for one in history] == [True, True, *[False] * 6, True]
    for one in history:
        assert one["first"] == sorted(one["first"], reverse=True)
        assert one["tokens_a_pass"] == 1 + sum(one["first"])
    again = train_a_head.train(llama, text, ready, updates=6, report=lines.append)
    assert again == history, "the same seed trains the same head"
    table = train_a_head.table(history)
    assert [row[0] for row in table.rows] == names
    assert table.rows[0][1] == table.rows[-1][1] == "–"

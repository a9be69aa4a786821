"""llama.cpp as a library computes the same perplexity as torch; greedy text is judged by known answers too."""

import math
from pathlib import Path

import pytest
import torch

from shared import LabError
from shared.launch import launch, stop_all
from shared.metrics import correctness
from shared.models import ModelChoice, llamacpp_library
from shared.models.llama import Llama

pytestmark = pytest.mark.engine
TOKENS = 256


def test_perplexity_is_that_of_the_reference_and_worse_with_four_bits(model: ModelChoice) -> None:
    llama = Llama.load(model.weights("hf"), torch.float32)
    ids = llama.tokenizer.encode(llamacpp_library.TEXT.read_text(), add_special_tokens=False)[:TOKENS]
    logits = llama.forward(torch.tensor([ids]), llama.new_cache(1, TOKENS), every=True)[0, :-1]
    log_p = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[32:, 0]
    right = math.exp(-float(log_p.mean()))
    ours = llamacpp_library.perplexity(model, "BF16", TOKENS)
    assert ours == pytest.approx(right, rel=0.02)
    assert llamacpp_library.perplexity(model, "Q4_0", TOKENS) > 1.02 * ours


def test_without_the_library_it_is_said(model: ModelChoice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    with pytest.raises(LabError, match=r"llama\.cpp's library is not on this machine"):
        llamacpp_library.load(model)


def test_an_engine_is_judged_by_the_reference_or_by_known_answers(model: ModelChoice) -> None:
    try:
        with launch("llamacpp", model, {"-np": 4, "-c": 4096}, quiet=True) as engine:
            values, answers = correctness.check_greedy(engine, correctness.Reference.load(model, 2))
            assert (values["texts"], len(answers)) == (2, 2)
            assert values["worst_gap_nats"] < 0.5
            assert values["equal_prompts"] == 2
            values, answers = correctness.check_greedy(
                engine, correctness.Reference(model, [])
            )  # as for a model without a reference
            assert values == {"right": sum(a["right"] for a in answers), "texts": len(correctness.KNOWN)}
            assert answers[0]["right"], answers[0]["answer"]
            assert correctness.row(values)[2] == f"{values['right']} of 4 known answers"
    finally:
        stop_all()

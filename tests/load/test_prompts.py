"""Prompts of each class have their stated length, and no two share a prefix that a cache could reuse."""

import subprocess
import sys
from itertools import islice

import pytest
from transformers import AutoTokenizer

from shared import LabError
from shared.load import prompts
from shared.load.prompts import OPENING_TOKENS, counter, tokenizer
from shared.models import ModelChoice


def ids(model: ModelChoice, messages: list[dict[str, str]]) -> list[int]:
    own = tokenizer(model.folder / "hf")
    text = own.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(own.encode(text, add_special_tokens=False))


def common(a: list[int], b: list[int]) -> int:
    """The length of the common prefix of two prompts, in tokens."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@pytest.mark.parametrize("tokens", [100, 257, 1024, 4000])
def test_a_long_prompt_has_exactly_its_tokens(model: ModelChoice, tokens: int) -> None:
    some = list(islice(prompts.long(model, tokens), 20))
    assert {len(ids(model, messages)) for messages in some} == {tokens}
    assert all(messages[-1]["content"].endswith("What is told about the island?") for messages in some)
    assert prompts.long(model, tokens).name == f"long-{tokens}"


@pytest.mark.parametrize("make", [prompts.short, lambda m: prompts.long(m, 300)])
def test_no_two_prompts_share_more_than_the_templates_opening(make: object, model: ModelChoice) -> None:
    some = [ids(model, messages) for messages in islice(make(model), 30)]  # type: ignore[operator]
    shared = [common(a, b) for i, a in enumerate(some) for b in some[:i]]
    assert max(shared) <= OPENING_TOKENS + 4  # of 435 pairs some agree in two or three characters of the nonce
    assert sum(shared) / len(shared) < OPENING_TOKENS


def test_a_shared_prefix_is_shared_and_the_rest_is_not(model: ModelChoice) -> None:
    made = prompts.shared_prefix(model, 500)
    some = [ids(model, messages) for messages in islice(made, 10)]
    assert made.about_cache
    shared = [common(a, b) for i, a in enumerate(some) for b in some[:i]]
    assert min(shared) > 480
    assert len({tuple(prompt) for prompt in some}) == 10
    assert not prompts.short(model).about_cache


def test_a_length_that_does_not_fit_is_refused(model: ModelChoice) -> None:
    for tokens in (20, model.context + 1):
        with pytest.raises(
            LabError, match=rf"of {tokens} tokens was requested, but .* takes 100 to 8192\.\nFix: choose a length from"
        ):
            prompts.long(model, tokens)


def test_the_count_is_the_models_own(model: ModelChoice) -> None:
    own = AutoTokenizer.from_pretrained(model.folder / "hf")
    assert type(tokenizer(model.folder / "hf")) is type(own)
    for text in ("What is gravity?", "  Ü 你好\n\n1234567 <|im_end|> x\t"):
        messages = prompts.chat(model, text)
        rendered = own.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert ids(model, messages) == own.encode(rendered, add_special_tokens=False)
        assert counter(model)(messages) == len(ids(model, messages))


def test_counting_tokens_does_not_take_torch_along() -> None:
    """It would be seconds and hundreds of megabytes in each notebook."""
    code = "import sys; from shared import models; from shared.load.prompts import counter; "
    code += "counter(models.small())([{'role': 'user', 'content': 'Hi'}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

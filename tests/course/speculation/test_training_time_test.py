"""The unrolled steps equal what an engine computes: true features up to a position, then the head's own outputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.course.speculation.eagle3.head import Eagle3Head, HeadShape
from shared.course.speculation.eagle3.training_time_test import Batch, loss, shifted, unroll

torch.set_num_threads(1)  # on tensors as small as these, a second thread only waits for the first
SHAPE = HeadShape(hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8, vocabulary=50, draft_vocabulary=20)
STEPS, TOKENS = 4, 11


@pytest.fixture
def head() -> Eagle3Head:
    torch.manual_seed(3)
    return Eagle3Head(SHAPE, range(5, 25))


def draft_slowly(head: Eagle3Head, embedding: Tensor, ids: Tensor, features: Tensor, last: int, steps: int) -> Tensor:
    """The head's outputs of one draft that begins when the tokens 0 … last are verified, one token at a time.

    The cache is a list. Token `last` + 1 is the model's own choice; the text's tokens stand for the guesses.
    """
    keys: list[Tensor] = []
    values: list[Tensor] = []

    def one(position: int, token: int, g: Tensor) -> Tensor:
        q, k, v = head.midlayer.qkv(embedding[token][None, None], g[None, None], torch.tensor([position]))
        keys.append(k[0, :, 0])
        values.append(v[0, :, 0])
        attended = torch.zeros(SHAPE.heads, SHAPE.head_dim)
        for h in range(SHAPE.heads):
            scores = torch.stack([q[0, h, 0] @ key[h] / math.sqrt(SHAPE.head_dim) for key in keys])
            attended[h] = sum(w * value[h] for w, value in zip(scores.softmax(-1), values, strict=True))
        return head.midlayer.finish(g[None, None], attended[None, :, None])[0, 0]

    for position in range(last + 1):
        h = one(position, int(ids[position + 1]), head.fc(features[position]))
    outputs = [h]
    for step in range(1, steps):
        outputs.append(one(last + step, int(ids[last + 1 + step]), outputs[-1]))
    return torch.stack(outputs)


def test_the_mask_equals_drafting_with_a_cache(head: Eagle3Head) -> None:
    embedding, ids = torch.randn(SHAPE.vocabulary, SHAPE.hidden), torch.randint(0, SHAPE.vocabulary, (2, TOKENS))
    features = torch.randn(2, TOKENS, 3 * SHAPE.hidden)
    with torch.no_grad():
        unrolled = torch.stack(list(unroll(head, embedding, ids, features, STEPS)))  # [steps, B, T, hidden]
        for row in range(2):
            for last in range(TOKENS - STEPS):
                slow = draft_slowly(head, embedding, ids[row], features[row], last, STEPS)
                torch.testing.assert_close(unrolled[:, row, last], slow, rtol=1e-4, atol=1e-5)


def test_a_guess_sees_no_later_features_and_no_other_draft(head: Eagle3Head) -> None:
    embedding, ids = torch.randn(SHAPE.vocabulary, SHAPE.hidden), torch.randint(0, SHAPE.vocabulary, (1, TOKENS))
    features = torch.randn(1, TOKENS, 3 * SHAPE.hidden)
    with torch.no_grad():
        before = torch.stack(list(unroll(head, embedding, ids, features, STEPS)))
        features[0, 6] += 1
        after = torch.stack(list(unroll(head, embedding, ids, features, STEPS)))
    assert torch.equal(before[:, :, :6], after[:, :, :6]), "positions before the changed one have changed"
    assert (before[:, :, 6:] != after[:, :, 6:]).any(-1).all(), "the changed position is not seen by later ones"


def test_the_loss_of_one_guess_is_the_cross_entropy_with_the_models_distribution(head: Eagle3Head) -> None:
    torch.manual_seed(5)
    embedding, output = torch.randn(SHAPE.vocabulary, SHAPE.hidden), torch.randn(SHAPE.vocabulary, SHAPE.hidden)
    ids, states = torch.randint(0, SHAPE.vocabulary, (1, TOKENS)), torch.randn(1, TOKENS, 4 * SHAPE.hidden)
    learned = torch.zeros(1, TOKENS, dtype=torch.bool)
    learned[0, 4:6] = True  # the answer is tokens 5 and 6
    draft = output[head.draft_tokens]
    value, right = loss(head, embedding, draft, Batch(ids, states, learned), steps=1)
    # Token 6 is guessed at position 4, from its features and token 5. The model decided on it at position 5.
    h = next(unroll(head, embedding, ids, states[..., : 3 * SHAPE.hidden], 1))[0, 4]
    goal = (draft @ states[0, 5, 3 * SHAPE.hidden :]).softmax(-1)
    expected = -(goal * F.log_softmax(head.logits(h), -1)).sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert right == [float(head.logits(h).argmax() == goal.argmax())]


def test_what_is_shifted_in_is_zero() -> None:
    assert shifted(torch.tensor([[1, 2, 3]]), 2).tolist() == [[3, 0, 0]]


def test_a_draft_vocabulary_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="19 draft tokens"):
        Eagle3Head(SHAPE, range(19))


def test_d2t_and_t2d_name_the_draft_tokens() -> None:
    tokens = [3, 7, 8, 20, *range(30, 46)]
    head = Eagle3Head(SHAPE, reversed(tokens))
    assert head.draft_tokens.tolist() == tokens
    assert head.t2d.nonzero()[:, 0].tolist() == tokens

"""The committed head: its text is whole, its weights fit the small model, and its card is about it."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from environment.eagle3_head import write_text
from environment.eagle3_head.prompts import HELD_OUT, prompts
from environment.eagle3_head.train_head import HERE, frequent_tokens
from environment.eagle3_head.write_text import MOST_TOKENS, ROOM, TEXT
from shared.course.speculation.eagle3 import acceptance, head_files, training_text
from shared.course.speculation.eagle3.head import Eagle3Head
from shared.course.speculation.eagle3.training_text import TrainingText
from shared.engines import draft_checks
from shared.load.prompts import chat, tokenizer
from shared.models import ModelChoice

MB = 1_000_000


@pytest.fixture(scope="module")
def text() -> TrainingText:
    return training_text.load(TEXT)


@pytest.fixture(scope="module")
def head(model: ModelChoice) -> Eagle3Head:
    return head_files.load(HERE, head_files.read_config(model.weights("hf")))


def test_the_files_are_small_enough_for_git() -> None:
    assert TEXT.stat().st_size <= 4 * MB
    assert (HERE / head_files.WEIGHTS).stat().st_size <= 15 * MB


def test_each_row_is_the_prompt_of_its_number_and_an_answer(text: TrainingText, model: ModelChoice) -> None:
    assert len(set(text.numbers.tolist())) == len(text)
    own, rows = tokenizer(model.folder / "hf"), {int(number): row for row, number in enumerate(text.numbers)}
    for number, prompt in enumerate(itertools.islice(prompts(), max(rows) + 1)):
        if (row := rows.get(number)) is None:
            continue
        assert training_text.GROUPS[text.groups[row]] == prompt.group
        assert bool(text.held_out[row]) == prompt.held_out
        assert text.temperatures[row] == np.float32(prompt.temperature)
        if number % 400 == 0:  # the tokenizer takes milliseconds
            shown = own.apply_chat_template(chat(model, prompt.question), add_generation_prompt=True, tokenize=False)
            ids = own.encode(shown, add_special_tokens=False)
            assert text.row(row)[: text.prompt_tokens[row]].tolist() == ids
    lengths = np.diff(text.starts)
    assert (lengths - text.prompt_tokens).max() <= MOST_TOKENS
    assert lengths.max() <= ROOM
    assert text.tokens.max() < len(own)


def test_held_out_rows_are_greedy_and_complete(text: TrainingText) -> None:
    held = text.rows(held_out=True)
    assert (text.temperatures[held] == 0).all()
    assert [len(text.rows(held_out=True, group=group)) for group in training_text.GROUPS] == [HELD_OUT] * len(
        training_text.GROUPS
    )


def test_writing_goes_on_where_it_ended(text: TrainingText, tmp_path: Path) -> None:
    """What git holds and what lies in the folder count together; a line cut short by a kill is written again."""
    new = int(text.numbers.max()) + 1
    lines = [{"number": int(text.numbers[0]), "answer": [1, 2]}, {"number": new, "answer": [1, 2, 3]}]
    (tmp_path / "answers-0-1.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"number": 99999, "ans')
    done, tokens = write_text.written_earlier(tmp_path)
    assert done == {*text.numbers.tolist(), new}
    assert tokens == text.answer_tokens(range(len(text))) + 3


def test_no_held_out_question_topic_or_function_is_trained_on() -> None:
    first = list(itertools.islice(prompts(), 6000))
    held, trained = [p for p in first if p.held_out], [p for p in first if not p.held_out]
    assert not {p.question for p in held} & {p.question for p in trained}
    assert not any("origami" in p.question or "palindrome" in p.question for p in trained)
    assert any("origami" in p.question for p in held)


def test_the_draft_vocabulary_is_what_the_training_answers_use_most(text: TrainingText) -> None:
    tokens = frequent_tokens(text, 300)
    rare = frequent_tokens(text, 600)[300:]
    rows = text.rows(held_out=False)
    assert acceptance.coverage(tokens, text, rows) > 0.5 > acceptance.coverage(rare, text, rows)
    assert len(set(frequent_tokens(text, 20_000))) == 20_000


def test_the_head_fits_the_small_model(head: Eagle3Head, model: ModelChoice) -> None:
    config = head_files.read_config(HERE)
    assert draft_checks.head_fault(config, head_files.read_config(model.weights("hf"))) == ""
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 15, 27]
    assert head.shape.hidden == 576
    assert len(head.draft_tokens) == config["draft_vocab_size"] == int(head.t2d.sum())
    assert all(bool(parameter.isfinite().all()) for parameter in head.parameters())


def test_the_card_is_about_this_text_and_this_head(head: Eagle3Head, text: TrainingText) -> None:
    card = (HERE / "README.md").read_text()
    rows = text.rows(held_out=False)
    assert f"{sum(parameter.numel() for parameter in head.parameters()):,} parameters" in card
    assert f"{head.shape.draft_vocabulary:,} draft tokens" in card
    assert f"{len(rows):,} answers with {text.answer_tokens(rows):,} tokens for training" in card
    run = json.loads((HERE / "training.json").read_text())
    assert run["tokens"] <= text.answer_tokens(rows)
    assert f"Trained on {run['answers']:,} answers with {run['tokens']:,} tokens: {run['updates']:,} updates" in card
    assert all(re.search(rf"^\| {group} \| \d+ \|", card, re.M) for group in training_text.GROUPS)

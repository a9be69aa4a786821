"""Quoted figures carry their source, and none of them counts as measured."""

import re

import pytest

from shared import results
from shared.course.benchmark import published
from shared.metrics.roofline import bits_per_weight
from shared.results import reading
from shared.results.reading import KINDS


@pytest.fixture
def entries() -> dict[str, reading.Entry]:
    published.record()
    return results.load_results("3.3.1", kind=None)


def test_every_figure_carries_its_source_and_date(entries: dict[str, reading.Entry]) -> None:
    assert len(entries) == len(published.quotes()) + len(published.outline())
    for entry in entries.values():
        assert KINDS.fullmatch(entry["kind"])
        assert entry["kind"].startswith("quoted: ")
        assert "processor" not in entry["provenance"], "it was not measured here"
    assert results.load_results("3.3.1") == {}


def test_the_table_shows_a_source_in_each_row(entries: dict[str, reading.Entry]) -> None:
    table = published.figures(entries)
    assert len(table.rows) == len(published.quotes())
    assert all(re.search(r"\d{4}(-\d\d)*", row[-1]) for row in table.rows)
    assert next(row for row in table.rows if row[0] == "TensorRT-LLM")[2:4] == ("10,257", "38.7")


def test_each_row_of_the_outline_is_confronted(entries: dict[str, reading.Entry]) -> None:
    table = published.confronted(entries, bits_per_weight, published.NOT_MEASURABLE)
    by_engine = {row[0]: row for row in table.rows}
    assert set(by_engine) == {"Ollama", "llama.cpp", "vLLM", "SGLang", "TensorRT-LLM"}
    assert by_engine["llama.cpp"][2] == "★★★★★ 59 tok/s: at most 4.9 bits per weight"
    assert by_engine["TensorRT-LLM"][1] == "★★★★★ 10,000 tok/s"
    assert all(row[-1] == "not measurable here" for row in table.rows)


def test_what_the_verdicts_say_agrees_with_the_quotes() -> None:
    """Every figure in a verdict is one of the quotes."""
    figures = {
        f"{n:,.0f}" if n >= 999.5 else f"{n:g}"
        for q in published.quotes()
        for n in (q.prefill_tok_s, q.decode_tok_s, q.many and q.many[1])
        if n
    }
    for row in published.outline():
        said = re.sub(r"[\d.]+ GB", "", row.verdict)
        for number in re.findall(r"(?<![\w.,])\d[\d,]*\.?\d*(?= to |[ ,.;)]|$)(?!-bit)", said):
            assert number.rstrip(".,") in {*figures, "10", "32", "4", "8"}, f"{row.engine}: {number}"

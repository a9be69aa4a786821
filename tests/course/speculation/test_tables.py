"""The tables and pictures of lab 3.3.4, on a made-up machine."""

from collections.abc import Callable

import pytest

from shared import results
from shared.course import labs
from shared.course.speculation import choose, tables
from shared.course.speculation.exercises.gain import solved
from shared.errors import LabError
from shared.report.plots import Plot
from shared.report.table import Table
from tests.helpers.speculation import MadeUp

LAB = labs.OpenLab("3.3.4")


@pytest.fixture
def everything() -> None:
    MadeUp().everything()


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    "make",
    [
        lambda: tables.drafts(LAB, "llamacpp"),
        lambda: tables.by_class(LAB, "llamacpp"),
        lambda: tables.by_temperature(LAB, "llamacpp"),
        lambda: tables.by_length(LAB, "llamacpp"),
        lambda: tables.by_users(LAB),
        lambda: tables.accepted(LAB),
        lambda: tables.cost_model(LAB, "llamacpp"),
        lambda: tables.break_even(LAB, "llamacpp", lambda k, users, pass_ms, draft_ms: 0.5),
    ],
)
def test_each_title_states_the_processor(make: Callable[[], Table]) -> None:
    processor = results.load_results("3.3.4")["speed/llamacpp/plain/held-out-topics/users-1/temperature-0/round-1"]
    table = make()
    assert processor["provenance"]["processor"] in table.title
    assert table.rows
    assert all(len(row) == len(table.header) for row in table.rows)
    if isinstance(table, Plot):
        assert table.figure.layout.title.text == table.title


@pytest.mark.usefixtures("everything")
def test_losses_are_shown() -> None:
    rows = {row[1]: row for row in tables.drafts(LAB, "llamacpp").rows}
    assert rows["small model as draft, 3 drafts"][-1] == "slower"
    assert next(iter(rows)) == "plain"  # what the others are held against


@pytest.mark.usefixtures("everything")
def test_sglangs_table_carries_its_note() -> None:
    assert "torch functions stand in for its kernels" in tables.drafts(LAB, "sglang").title
    assert "stand in" not in tables.drafts(LAB, "vllm").title


@pytest.mark.usefixtures("everything")
def test_classes_and_temperatures_show_what_was_measured_there() -> None:
    classes = tables.by_class(LAB, "llamacpp").rows
    assert {row[0] for row in classes} == {"held-out topics", choose.COPYING}
    hot = [row for row in tables.by_temperature(LAB, "llamacpp").rows if row[0] == "0.7"]
    assert [row[1] for row in hot] == ["plain", "EAGLE-3, 2 drafts"]


@pytest.mark.usefixtures("everything")
def test_acceptance_is_shown_for_each_number_of_users() -> None:
    rows = {(row[0], row[1]): row[3] for row in tables.by_users(LAB).rows}
    assert rows["vLLM, EAGLE-3, 3 drafts", "1"] == rows["vLLM, EAGLE-3, 3 drafts", "16"] == "33 %"


@pytest.mark.usefixtures("everything")
def test_the_picture_of_lengths_has_the_models_line_and_the_line_at_one() -> None:
    figure = tables.by_length(LAB, "llamacpp").figure
    assert [line.name for line in figure.data] == ["EAGLE-3", "n-gram look-up", "small model as draft", "cost model"]
    assert list(figure.data[0].x) == [1, 2, 3, 8]
    assert [(shape.y0, shape.name, shape.showlegend) for shape in figure.layout.shapes] == [
        (1, "as fast as plain", True)
    ]
    assert not figure.layout.annotations  # a label in the picture would cover points


def test_without_the_cost_models_loads_the_picture_has_no_line_of_it() -> None:
    made_up = MadeUp()
    for number in (1, 2):
        made_up.speed(number=number)
        made_up.speed(("eagle3", 2), number=number)
    assert [line.name for line in tables.by_length(LAB, "llamacpp").figure.data] == ["EAGLE-3"]


@pytest.mark.usefixtures("everything")
def test_the_parts_of_a_step_add_up_to_its_tokens() -> None:
    rows = {row[0]: row for row in tables.accepted(LAB).rows}
    assert float(rows["llama.cpp, EAGLE-3, 3 drafts"][-1]) == pytest.approx(2.0, abs=0.01)
    header = tables.accepted(LAB).header
    sglang = dict(zip(header, rows["SGLang, EAGLE-3, 3 drafts"], strict=True))
    assert sglang["drafts, position not counted"] == "1.00"
    assert sglang["draft 1"] == "–"


@pytest.mark.usefixtures("everything")
def test_break_even_asks_the_students_function_with_the_machines_costs() -> None:
    def break_even(k: int, users: int, pass_ms: Callable[[float], float], draft_ms: float) -> float | None:
        return solved((pass_ms(users * (k + 1)) + k * draft_ms) / pass_ms(users), k)

    rows = {row[:2]: row for row in tables.break_even(LAB, "llamacpp", break_even).rows}
    # 8 ms plain; one draft: 14 + 1.5 ms
    assert float(rows["1", "1"][5]) == pytest.approx((14 + 1.5) / 8 - 1, abs=0.02)
    many, ms = choose.many(), MadeUp.pass_ms
    needed = (ms(2 * many) + 1.5 * ms(many) / ms(1)) / ms(many)
    assert float(rows[str(many), "1"][5]) == pytest.approx(needed - 1, abs=0.02)
    assert {row[-1] for row in rows.values()} <= {"pays", "loses"}


def test_without_a_head_the_tables_are_about_the_small_model() -> None:
    MadeUp(main="model").everything()
    assert "llama.cpp, small model as draft: a plain pass 8" in tables.cost_model(LAB, "llamacpp").title
    table = tables.break_even(LAB, "llamacpp", lambda k, users, pass_ms, draft_ms: 0.5)
    assert "llama.cpp, small model as draft: when drafts pay" in table.title
    assert table.rows
    names = [line.name for line in tables.by_length(LAB, "llamacpp").figure.data]
    assert names == ["n-gram look-up", "small model as draft", "cost model"]


def test_texts_name_what_differs() -> None:
    record = results.record
    values = {"worst_gap_nats": 0.1, "mean_gap_nats": 0.001, "equal_texts": 1, "equal_prompts": 2, "texts": 2}
    record("3.3.4", "text/llamacpp/plain", values, raw=[{"tokens": [1, 2]}, {"tokens": [3]}])
    record("3.3.4", "text/llamacpp/eagle3-2", values, raw=[{"tokens": [1, 2]}, {"tokens": [4]}])
    assert [row[-1] for row in tables.texts(LAB).rows] == ["1 of 2 equal", "–"]


def test_the_passes_in_torch_are_set_beside_passes_of_one() -> None:
    results.record("3.3.4", "passes/torch", {"ms": {"1": 10.0, "4": 12.0}, "dtype": "torch.bfloat16"}, raw={})
    plot = tables.passes(LAB)
    assert [row[2] for row in plot.rows] == ["1.00", "1.20"]
    assert [list(line.y) for line in plot.figure.data] == [[10, 12], [10, 40]]


def test_nothing_measured_is_said() -> None:
    with pytest.raises(LabError, match="no loads to show"):
        tables.drafts(LAB, "llamacpp")

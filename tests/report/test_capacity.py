"""The capacity calculator's tables: the sources of the terms, the error against measured loads, the answer."""

import re
from dataclasses import replace

import pytest

from shared import LabError
from shared.course.batching.exercises.how_many_engines import right
from shared.metrics import Slo
from shared.metrics.capacity import Demand
from shared.models import ModelChoice
from shared.report.capacity import answer, by_rate, by_think_time, doubts, left_out, planned, rate_within, terms
from shared.results import recorded_engine
from shared.results.recorded_engine import Recorded
from tests.helpers import quiet_ledger
from tests.helpers.quiet_ledger import ANSWER, PROMPT, TOK_S, TPOT_MS, TTFT_MS

DEMAND = Demand(users=200, prompt_tokens=PROMPT, output_tokens=ANSWER, think_s=10, slo=Slo(934, 47))


@pytest.fixture
def recorded(model: ModelChoice) -> Recorded:
    quiet_ledger.record_loads()
    quiet_ledger.record_bandwidth()
    quiet_ledger.record_open_loops()
    return recorded_engine.read("vllm", model)


def test_the_terms_name_their_sources(recorded: Recorded) -> None:
    found, engine = planned(recorded, DEMAND)
    rows = {term: (value, source) for term, value, source in terms(recorded, engine, found).rows}
    assert rows["users"] == ("200", "asked")
    assert rows["memory bandwidth"] == ("33.7 GB/s", "measured, 3.3.2: predict/growth")
    assert rows["a step: overhead"][1] == "fitted: TPOT, 3.3.2: load/users-1…32/vllm"
    assert rows["TPOT of 90 % / median"] == ("1.10", "measured: traces of 3.3.2: load/users-1…32/vllm")
    assert rows["most at once, by seats"] == ("32", "recorded flag: --max-num-seqs")
    assert rows["most at once, by memory"] == ("597", "1.00 GiB by the recorded flags / 1.7 MiB a request")
    assert rows["most at once, by TTFT"] == ("not a limit", "kept with every seat taken")
    assert "assumed: users ask independently" in rows["users of one engine"][1]
    assert rows["engines"][0] == str(found.engines)


def test_the_answer_names_what_limits(recorded: Recorded) -> None:
    found, _ = planned(recorded, DEMAND)
    assert found.limit == "TPOT"
    most = found.limits["TPOT"]
    assert answer(recorded, found) == (
        f"200 users: {found.engines} engines on {found.engines} machines. One engine carries {found.users_per_engine} "
        f"users, of whom at most {most} may wait for an answer at once. The limit is time (TPOT)."
    )
    few = planned(recorded, replace(DEMAND, users=1, slo=Slo()))[0]
    assert answer(recorded, few).startswith("1 user: 1 engine on 1 machine.")
    assert answer(recorded, few).endswith("The limit is seats.")
    long, engine = planned(recorded, replace(DEMAND, slo=Slo(), prompt_tokens=2000))
    assert answer(recorded, long).endswith("The limit is memory.")
    assert ("most at once, by TPOT", "not a limit", "no limit was asked for") in terms(recorded, engine, long).rows
    none, engine = planned(recorded, replace(DEMAND, slo=Slo(tpot_ms=5)))
    assert "No number of these engines is enough" in answer(recorded, none)
    assert "time (TPOT)" in answer(recorded, none)
    assert not [row for row in terms(recorded, engine, none).rows if row[0] == "engines"]


def test_each_measured_load_is_predicted_from_the_others(recorded: Recorded) -> None:
    table = left_out(recorded)
    assert [row[0] for row in table.rows] == ["1", "4", "8", "16", "32"]
    for users, *cells in table.rows:
        for at, measured in ((0, TTFT_MS), (3, TPOT_MS), (6, TOK_S)):
            predicted, was, error = (float(re.sub(r"[,%+ ]", "", cell)) for cell in cells[at : at + 3])
            assert was == pytest.approx(measured[int(users)], rel=0.01)
            assert error == pytest.approx(100 * (predicted / was - 1), abs=1)
    worst = max(abs(int(row[-1].removesuffix(" %"))) for row in table.rows)
    assert f"off by at most {worst} %" in table.title


def test_the_quiet_machine_s_loads_are_predicted_well(recorded: Recorded) -> None:
    """These are recorded figures, so the error is fixed: it changes only if the model does."""
    inner = [row for row in left_out(recorded).rows if row[0] in ("4", "8", "16")]
    assert all(abs(int(row[-1].removesuffix(" %"))) <= 15 for row in inner)
    half, most, over = by_rate(recorded, DEMAND.slo).rows
    assert all(abs(int(row[7].removesuffix(" %"))) <= 15 for row in (half, most))
    assert (over[2], over[5]) == ("–", "–")  # more than 32 seats can carry
    assert [row[-1] for row in (half, most, over)] == ["100 %", "0 %", "0 %"]
    assert rate_within(recorded, replace(DEMAND.slo, tpot_ms=1)) == 0
    [rate] = re.findall(r"sends an engine ([\d.]+) requests/s", by_rate(recorded, DEMAND.slo).title)
    assert 3 < float(rate) < 7.9  # the SLO held at 5.2 requests/s, and not at 7.9


def test_a_test_without_loads_names_the_cell(model: ModelChoice) -> None:
    quiet_ledger.record_loads((1, 4, 8, 16))
    quiet_ledger.record_bandwidth()
    recorded = recorded_engine.read("vllm", model)
    with pytest.raises(LabError, match=r"five must be measured; lab 3\.3\.2 has 4.*\nFix: run the cell `run-load`"):
        left_out(recorded)
    with pytest.raises(LabError, match=r"no open loop.*\nFix: run the cell `run-open-loop` of lab 3\.3\.2"):
        by_rate(recorded, Slo())


def test_what_makes_an_answer_doubtful_is_said(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine = planned(recorded, DEMAND)
    assert doubts(recorded, engine, DEMAND) == []
    [longer] = doubts(recorded, engine, replace(DEMAND, prompt_tokens=500))
    assert "prompts of 46 tokens and answers of 32" in longer
    worse = replace(engine, step=replace(engine.step, worst_residual=0.9))
    [busy] = doubts(recorded, worse, DEMAND)
    assert "misses the measured TPOT of a load by 90 %" in busy


def test_the_exercise_stands_beside_the_calculator(recorded: Recorded) -> None:
    _, engine = planned(recorded, DEMAND)
    table = by_think_time(engine, DEMAND, (0, 30), right)
    found, _ = planned(recorded, replace(DEMAND, think_s=0))
    assert found.at is not None
    most = found.at.requests
    own = -(-200 * 10 // (8 * most))  # 200 / (0.8 × most), rounded up
    assert table.rows[0] == ("0 s", "100 %", str(own), str(found.engines), table.rows[0][-1])
    none = by_think_time(engine, replace(DEMAND, slo=Slo(tpot_ms=1)), (0,), right)
    assert none.rows == [("0 s", "–", "–", "–", "–")]

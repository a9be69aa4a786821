"""The choice guide follows from the ledger alone."""

import pytest

from shared import results
from shared.course.benchmark.ranking import absent, guide, ranked, verdict
from tests.helpers.ledger import fill, record_load


def rows() -> dict[str, tuple[str, ...]]:
    return {row[0]: tuple(row[1:]) for row in guide(results.load_results("3.3.1")).rows}


def test_each_use_is_decided_by_its_own_figure() -> None:
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20, "sglang": 25})
    found = rows()
    decided, choice, figure, next_one = found["One person chats"]
    assert (decided, choice) == ("time per output token, 1 user", "llama.cpp")
    assert figure == "10.2 ms"
    assert next_one == "Ollama: 11.2 ms, 1.1× apart"
    assert found["Many users: most work done"][:2] == ("output throughput, 32 users", "llama.cpp")
    assert found["One person, long prompts"][:2] == (
        "time to first token, 512 tokens",
        "no winner: Ollama or llama.cpp or vLLM or SGLang",
    )
    assert found["Starts and stops often"] == (
        "start-up, measured once",
        "least seen: llama.cpp",
        "10 s",
        "Ollama: 11 s",
    )


def test_engines_that_are_level_are_chosen_together() -> None:
    fill({"ollama": 10.1, "llamacpp": 10, "vllm": 20})
    assert rows()["One person chats"][1:3] == ("llama.cpp or Ollama", "10.2 or 10.3 ms")


def test_an_engine_is_not_chosen_because_its_rounds_scatter() -> None:
    """Its best round beats all others, and its median is the worst."""
    fill({"vllm": 20, "sglang": 25})
    for number, gap_ms in ((1, 15), (2, 40), (3, 60)):
        record_load(f"load/users-1/llamacpp/round-{number}", "llamacpp", 1, number, gap_ms)
    _, choice, figure, next_one = rows()["One person chats"]
    assert (choice, figure) == ("vLLM", "20.4 ms")
    assert next_one.startswith("SGLang: 25.5 ms")
    data = {("vllm", 1): [20.0, 21], ("sglang", 1): [25.0, 26], ("llamacpp", 1): [15.0, 60]}
    assert verdict(data, 1, more_is_better=False) == "**vLLM**: 1.24×"


def test_one_engine_alone_wins_nothing() -> None:
    fill({"vllm": 20})
    assert rows()["One person chats"][1] == "vLLM, the only one measured"
    assert "Starts and stops often" not in rows()


def test_an_empty_ledger_advises_nothing() -> None:
    assert rows() == {}


def test_an_engine_without_prompts_is_no_rival_where_they_decide() -> None:
    fill({"llamacpp": 10})
    record_load("load/users-1/vllm/round-1", "vllm", 1, 1, 20)
    assert rows()["One person, long prompts"][1] == "llama.cpp, the only one measured"


def test_the_factor_is_that_of_the_best_behind() -> None:
    data = {("vllm", 1): [20.0, 21], ("ollama", 1): [10.0, 10.5], ("sglang", 1): [5.0, 5.1]}
    order, behind = ranked(data, 1, more_is_better=True)
    assert order == ["vllm", "ollama", "sglang"]
    assert behind == {"ollama": pytest.approx(2), "sglang": pytest.approx(4.06, abs=0.01)}
    assert verdict(data, 1, True) == "**vLLM**: 2×"
    assert verdict(data, 1, False) == "**SGLang**: 2.03×"
    assert verdict({("vllm", 1): [20.0]}, 1, True) == "only one measured"


def test_who_took_no_part_is_named_with_the_reason() -> None:
    results.record("3.3.1", "engine/sglang", {"missing": "it is not installed"})
    results.record("3.3.1", "engine/vllm", {"startup_s": 30})
    assert absent(results.load_results("3.3.1")) == {"sglang": "it is not installed"}

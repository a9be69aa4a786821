"""The choice of an engine for a mix: what is read off the curves, the floors, and the tables."""

import re
from typing import Any

import pytest

from shared.course import checks, registry
from shared.course.prefill import choose, curve, mix
from shared.errors import LabError
from shared.models import catalogue, choice

OWN = {"eager": {16: [16.0] * 3, 512: [512.0] * 3}, "openvino": {16: [4.0] * 3, 512: [1024.0] * 3}}
SERVED = {
    "llamacpp": {16: [8.0] * 3, 512: [512.0] * 3},
    "llamacpp, own clock": {16: [1.0] * 3, 512: [1.0] * 3},
}


def test_a_mix_is_read_off_the_curve_between_its_lengths() -> None:
    gains = choose.by_curve((16, 264), OWN)
    assert gains["eager"] == 1
    assert gains["openvino"] == pytest.approx((16 + 264) / (4 + 514))


def test_the_fastest_engine_is_taken_over_all_curves_by_the_clients_clock() -> None:
    assert list(choose.fastest((16,), OWN | SERVED)) == ["openvino", "llamacpp", "eager"]
    assert choose.fastest_engine("rag", OWN | SERVED).startswith("5: llamacpp, ")
    assert choose.mix_gains(OWN | SERVED).rows[-1][0] == "one prompt of 512 tokens"


def test_servers_with_another_model_are_not_compared() -> None:
    other = {"vllm": {16: [1.0] * 3, 512: [1.0] * 3}}
    stored = {"curve": ("", OWN), "servers/llamacpp": ("small", SERVED), "servers/vllm": ("8b", other)}
    results = {key: {"values": {"model": of, "ms": curve.values(times)}} for key, (of, times) in stored.items()}
    assert choose.times_of(results, "small") == OWN | SERVED
    del results["curve"]
    with pytest.raises(LabError, match=r"isn't measured yet\.\nFix: run the cell measure-curve"):
        choose.times_of(results, "small")


def test_a_guess_is_compared_with_a_result_that_is_recorded_by_then() -> None:
    above, compared = "", []
    for cell in checks.notebook(registry.find_lab("3.3.3"))["cells"]:
        if cell["cell_type"] == "code":
            above += cell["source"] + "\n"
            for key in re.findall(r'guess_beside_result\("([^"]+)"', cell["source"]):
                assert re.search(rf'lab\.(measure|record)\(\s*"{key}', above), key
                compared.append(key)
    assert compared == ["curve", "batches", "choice"]


def test_floors_grow_with_the_prompt_and_published_speeds_name_their_source() -> None:
    model = choice.from_catalogue_entry(catalogue.entry(catalogue.LLAMA_8B), "3.3.3", token=False)
    shares = [float(row[-1].rstrip("%")) for row in choose.workload_floors(model).rows]
    assert all(0 < share < 100 for share in shares)
    assert shares[0] < shares[2]
    rows = choose.published_prefill().rows
    assert len(rows) >= 4
    assert all(all(row) for row in rows)


def test_buckets_of_every_mix_are_shown_with_their_padding() -> None:
    rows = choose.bucket_table(lambda lengths, most: [max(lengths)], (1,)).rows
    assert [row[:3] for row in rows] == [(name, "1", str(max(lengths))) for name, lengths in mix.MIXES.items()]
    timed: dict[str, dict[str, Any]] = {
        "ms": {"eager": [4.0] * 5, "yours": [2.0] * 5},
        "padding": {"eager": 0.0, "yours": 0.25},
    }
    table = choose.mix_table("chat", timed)
    assert [row[2:] for row in table.rows] == [("0%", ""), ("25%", "2.00× (2.00–2.00)")]

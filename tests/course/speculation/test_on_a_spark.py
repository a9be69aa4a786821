"""Lab 3.3.4's page about a Spark: flags from the engines' own descriptions, quoted figures with their sources."""

import json
import re
from pathlib import Path

from shared.course.speculation import on_a_spark
from shared.results import ledger


def test_each_engine_gets_k_drafts_and_its_own_head() -> None:
    found = on_a_spark.start_flags(k=5)
    sglang, vllm, trtllm = found.values()
    assert [title.partition(",")[0] for title in found] == ["SGLang", "vLLM", "TensorRT-LLM"]
    # All three numbers of SGLang, for a chain: its draft tokens include the one that the model wrote last.
    assert "--speculative-num-steps 5\n--speculative-eagle-topk 1\n--speculative-num-draft-tokens 6" in sglang
    of_vllm = json.loads(vllm.partition("--speculative-config ")[2])
    assert (of_vllm["method"], of_vllm["num_speculative_tokens"]) == ("eagle3", 5)
    of_trtllm = json.loads(trtllm.partition("a file with: ")[2])["speculative_config"]
    assert (of_trtllm["decoding_type"], of_trtllm["max_draft_len"]) == ("Eagle3", 5)
    heads = {re.search(r"[\w-]+/[\w.-]*[Ee][Aa][Gg][Ll][Ee][\w.-]*", flags)[0] for flags in found.values()}  # type: ignore[index]
    assert len(heads) == 3


def test_quoted_speed_ups_are_recorded_as_quoted_and_shown_with_their_source(own_results: Path) -> None:
    on_a_spark.record()
    entries = ledger.load_results("3.3.4", None)
    assert len(entries) >= 7
    for entry in entries.values():
        assert re.fullmatch(r"quoted: .+, \d{4}-\d\d-\d\d", entry["kind"])
    table = on_a_spark.figures(entries)
    [slower] = [row for row in table.rows if "gpt-oss-20b" in row[1]]
    assert slower[:4] == ("DGX Spark", "vLLM, gpt-oss-20b, EAGLE-3", "0.62 times: 96.2 to 59.4", "–")
    assert "one owner, 2026-10-06" in slower[4]
    [many] = [row for row in table.rows if "Qwen3.8-27B NVFP4" in row[1]]
    assert many[3] == "1.26 times: 84 to 106 (10 users)"


def test_the_expected_range_is_that_of_the_quoted_figures_on_a_spark(own_results: Path) -> None:
    on_a_spark.record()
    sentence = on_a_spark.expected(ledger.load_results("3.3.4", None))
    assert "between 0.62 and 1.91 times" in sentence  # 2.36 was measured on another GPU
    assert "2 of these 7 reports use EAGLE-3" in sentence

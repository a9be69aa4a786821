"""Every number in an engine's flags that enters the sum of its memory has the right type, sign and range.

A flag that lowers the sum without lowering what the engine takes would let a Spark run out of memory, which freezes it.
"""

from dataclasses import replace

import pytest

from shared import LabError
from shared.engines import ENGINES, Draft
from shared.engines.spec import memory_share, whole_number
from shared.hardware import Machine
from shared.launch.memory import need
from shared.models import ModelChoice
from tests.helpers.fake_spark import FLAGS

NO_NUMBER = [-1, -5, "-5", 0.5, 16.0, "16k", "4,096", "4_096", " 16", "+16", "١٦", "", None, True, False, "nan", 10**18]
NO_SHARE = ["0,3", -1, "-0.3", 0, 0.0, 1.01, 30, "30%", "nan", "inf", "-inf", "", None, True, False]
NUMBERS = [(name, flag) for name, flags in FLAGS.items() for flag in flags]
SHARES = [("vllm", "--gpu-memory-utilization"), ("sglang", "--mem-fraction-static")]


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
@pytest.mark.parametrize(("engine", "flag"), NUMBERS)
def test_a_number_that_is_none_is_refused_with_the_flags_name(
    spark: Machine, spark_model: ModelChoice, engine: str, flag: str, value: object
) -> None:
    with pytest.raises(LabError) as error:
        need(ENGINES[engine], spark_model, "BF16", {**FLAGS[engine], flag: value}, spark)
    assert str(error.value).startswith(f"{flag} is {value!r}, but must be a whole number from ")
    assert f"{{{flag!r}: 4096}}" in error.value.fix


@pytest.mark.parametrize("value", NO_SHARE, ids=repr)
@pytest.mark.parametrize(("engine", "flag"), SHARES)
def test_a_share_that_is_none_is_refused_with_the_flags_name(
    spark: Machine, spark_model: ModelChoice, engine: str, flag: str, value: object
) -> None:
    with pytest.raises(LabError) as error:
        need(ENGINES[engine], spark_model, "BF16", {**FLAGS[engine], flag: value}, spark)
    assert str(error.value).startswith(f"{flag} is {value!r}, but must be a number above 0 and at most 1")


@pytest.mark.parametrize("value", [1, 0.3, "0.3", "3e-1", ".5"], ids=repr)
def test_a_share_is_taken_as_the_engine_takes_it(value: object) -> None:
    assert memory_share({"--gpu-memory-utilization": value}, "--gpu-memory-utilization") == float(str(value))
    assert memory_share({}, "--gpu-memory-utilization") is None


@pytest.mark.parametrize("value", [16, "16", 10**17], ids=repr)
def test_a_whole_number_is_taken(value: object) -> None:
    assert whole_number({"--max-num-seqs": value}, "--max-num-seqs") == int(str(value))
    assert whole_number({}, "--max-num-seqs") is None


@pytest.mark.parametrize(
    ("engine", "flag", "other", "value"),
    [
        ("vllm", "--max-model-len", "--max_model_len", 131072),
        ("vllm", "--max-model-len", "--max-model-len=131072", True),
        ("vllm", "--max-num-seqs", "--max-num-s", 1024),
        ("vllm", "--gpu-memory-utilization", "--gpu_memory_utilization", 0.99),
        ("vllm", "--gpu-memory-utilization", "--gpu-mem", 0.99),
        ("sglang", "--max-total-tokens", "--max-total-token", 10**7),
        ("sglang", "--mem-fraction-static", "--mem-fraction", 0.99),
        ("trtllm", "--max_seq_len", "--max-seq-len", 131072),
        ("trtllm", "--max_seq_len", "max_seq_len", 131072),
        ("llamacpp", "-c", "--ctx-size", 131072),
    ],
)
def test_a_second_spelling_of_a_flag_does_not_pass_the_sum_by(
    spark: Machine, spark_model: ModelChoice, engine: str, flag: str, other: str, value: object
) -> None:
    with pytest.raises(LabError) as error:
        need(ENGINES[engine], spark_model, "BF16", {**FLAGS[engine], other: value}, spark)
    assert str(error.value).startswith(f"{other} sets {flag} in another spelling")
    assert repr(flag) in error.value.fix


def test_neighbours_of_a_flag_are_no_other_spelling_of_it(spark: Machine, spark_model: ModelChoice) -> None:
    more = {"--max-num-batched-tokens": 2048, "--max-logprobs": 5, "--max-num-partial-prefills": 2}
    needed = need(ENGINES["vllm"], spark_model, "BF16", {**FLAGS["vllm"], **more}, spark)
    assert needed == need(ENGINES["vllm"], spark_model, "BF16", FLAGS["vllm"], spark)
    assert whole_number({"-ctk": "q8_0", "-np": 4, "-c": 1}, "-c", also=("--ctx-size",)) == 1


def test_flags_that_set_the_kv_cache_by_other_means_enter_the_sum(spark: Machine, spark_model: ModelChoice) -> None:
    def kv(**more: object) -> float:
        flags = {**FLAGS["vllm"], **{f"--{name.replace('_', '-')}": value for name, value in more.items()}}
        return need(ENGINES["vllm"], spark_model, "BF16", flags, spark).kv

    assert kv(kv_cache_memory_bytes=50 * 2**30) == 50
    assert kv(num_gpu_blocks_override=4096) == 2 * kv()
    assert kv(num_gpu_blocks_override=4096, block_size=32) == 4 * kv()
    assert kv(num_gpu_blocks_override=10) == kv()
    assert "would replace" in ENGINES["trtllm"].container.refuses({"kv_cache_config": {"max_tokens": 10**9}})


def test_zero_stands_for_the_engines_own_default(machine: Machine, spark: Machine, model: ModelChoice) -> None:
    native = replace(machine, runner="native")
    whole = need(ENGINES["llamacpp"], model, "BF16", {}, native).kv
    assert need(ENGINES["llamacpp"], model, "BF16", {"-c": 0}, native).kv == whole
    with pytest.raises(LabError, match="takes most of the memory for its KV cache unless"):
        need(ENGINES["llamacpp"], model, "BF16", {"-c": 0}, spark)


@pytest.mark.parametrize("tokens", [0, -1, 2.5, "3", True, None])
def test_a_draft_has_a_whole_number_of_tokens(tokens: object) -> None:
    with pytest.raises(LabError, match="but both must be whole numbers"):
        Draft("ngram", tokens)  # type: ignore[arg-type]

"""Each machine gets its model, and the figures of each model are consistent."""

from dataclasses import replace
from pathlib import Path

import pytest

from shared import LabError, models
from shared.course.registry import LABS
from shared.hardware import Machine
from shared.models import catalogue, choice
from shared.models.catalogue import LLAMA_8B, QWEN_1B, Source, entries, entry


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LABS_MODEL", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))


@pytest.fixture
def spark(machine: Machine) -> Machine:
    """This machine, described as a Spark; the tests need only the description."""
    return replace(machine, profile="spark", gpu="NVIDIA GB10", gpu_memory_gib=None)


def every_source() -> list[Source]:
    named = [source for model in entries().values() for source in (*model.sources.values(), *model.drafts.values())]
    return [*named, *catalogue.mirrors().values()]


@pytest.mark.parametrize(
    ("profile", "gpu_gib", "name"),
    [
        ("cpu", None, "smollm2-135m-instruct"),
        ("spark", None, "llama-3.1-8b-instruct"),
        ("cuda", 80.0, "llama-3.1-8b-instruct"),
        ("cuda", 24.0, "qwen3-1.7b"),
        ("cuda", None, "qwen3-1.7b"),
    ],
)
def test_each_profile_has_its_model(machine: Machine, profile: str, gpu_gib: float | None, name: str) -> None:
    for lab in catalogue.loads():
        model = models.choose(replace(machine, profile=profile, gpu_memory_gib=gpu_gib), lab)
        assert model.name == name
        assert model.local is (profile == "cpu")
        assert bool(model.loads) is not model.local  # at least one of a lab's sources


def test_a_lab_that_is_none_is_told(machine: Machine) -> None:
    with pytest.raises(LabError, match=r"no lab '3\.3\.7'"):
        models.choose(machine, "3.3.7")


def test_without_an_account_the_ungated_copy_is_used(spark: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.choose(spark).source("hf", "BF16")
    assert (source.repository, source.gated) == (entry(LLAMA_8B).sources["hf BF16"].ungated, False)
    assert "unsloth/Meta-Llama" in models.choose(spark).origin
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    source = models.choose(spark).source("hf", "BF16")
    assert (source.repository, source.gated) == ("meta-llama/Llama-3.1-8B-Instruct", True)


def test_a_token_in_the_hubs_file_counts(spark: Machine, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("")
    assert not models.choose(spark).source("hf", "BF16").gated
    (tmp_path / "token").write_text("hf_something")
    assert models.choose(spark).source("hf", "BF16").gated


def test_what_there_is_not_is_answered_with_what_there_is(spark: Machine) -> None:
    model = models.choose(spark)
    with pytest.raises(
        LabError, match=r"No NVFP4 weights of .* reads gguf.\nFix: choose one of: hf BF16, hf FP8, hf NVFP4, gguf"
    ):
        model.source("gguf", "NVFP4")
    with pytest.raises(LabError, match="an engine's container fetches it"):
        model.weights("BF16")


def test_the_larger_choice_is_asked_for_by_name(spark: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("qwen3.8-27b", "nvidia/Qwen3.8-27B-NVFP4"):
        monkeypatch.setenv("LABS_MODEL", asked)
        assert models.choose(spark).source("hf", "NVFP4").repository == "nvidia/Qwen3.8-27B-NVFP4"
    monkeypatch.setenv("LABS_MODEL", "owner/name")
    with pytest.raises(LabError, match=r"choose one of llama-3\.1-8b-instruct, qwen3-1\.7b, qwen3\.8-27b"):
        models.choose(spark)


def test_sizes_follow_from_the_shape() -> None:
    """A file is barely larger than its parameters; otherwise a figure was mistyped."""
    for model in entries().values():
        for key, source in model.sources.items():
            if source.bytes and key.endswith("BF16"):
                assert 0 <= source.bytes - 2 * model.parameters < 10_000_000, key
            elif source.bytes:
                nominal = model.parameters * choice.BYTES_PER_PARAMETER[key.split()[1]]
                assert 0.99 < source.bytes / nominal < 1.45, key  # parts stay in 16 bits


def test_precision_is_equal_across_engines(spark: Machine) -> None:
    """Each model has BF16 both as safetensors and as GGUF."""
    for model in (entry(LLAMA_8B), entry(QWEN_1B)):
        assert {"hf BF16", "gguf BF16"} <= set(model.sources)
        assert model.sources["gguf BF16"].file.endswith("-BF16.gguf")


def test_every_source_is_complete_or_says_that_it_is_not() -> None:
    for source in every_source():
        assert len(source.revision) in (0, 40), source
        assert set(source.revision) <= set("0123456789abcdef"), source
        assert source.repository.count("/") == 1
        assert source.licence, source
        assert source.source, source
        assert not source.gated or source.ungated in {s.repository for s in catalogue.mirrors().values()}
        assert bool(source.file) is source.repository.endswith("-GGUF"), source


def test_drafts_fit_engines_that_exist() -> None:
    from shared.engines import ENGINES

    for model in entries().values():
        for key in model.drafts:
            engine, _, kind = key.partition(" ")
            assert engine in ENGINES
            assert kind in ("EAGLE-3", "draft model")
            reads_gguf = ENGINES[engine].reads == "gguf"
            assert model.drafts[key].repository.endswith("-GGUF") is reads_gguf, key


def test_the_arithmetic_of_a_spark(spark: Machine) -> None:
    """The published ceilings of an 8B model at 273 GB/s: 18.2 tokens a second in BF16, 54.9 in NVFP4."""
    model = models.choose(spark)
    assert 273e9 / model.decode_bytes("BF16") == pytest.approx(18.2, abs=0.1)
    assert 273e9 / model.decode_bytes("NVFP4") == pytest.approx(54.9, abs=0.1)
    assert model.weight_bytes() == pytest.approx(model.decode_bytes("BF16"), rel=1e-4)
    assert model.kv_bytes_per_token() == 2 * 32 * 8 * 128 * 2 == 131_072
    # 16.06 GB of weights, 32 users of 2048 tokens, and the 6.7 GiB that an owner found for the engine
    assert model.memory_gib("BF16", 32 * 2048, 6.7) == pytest.approx(14.96 + 8.0 + 6.7, abs=0.05)


def test_a_result_names_weights_that_lie_elsewhere(spark: Machine) -> None:
    model = models.choose(spark)
    assert model.sha256("hf") == "unsloth/Meta-Llama-3.1-8B-Instruct@a2856192dd7c25b842431f39c179a6c2c2f627d1"
    assert model.file_bytes("Q8_0") == 8_540_775_840
    assert model.file_bytes("FP8") == model.parameters  # its size is unknown, so it is estimated from the format
    assert model.made()


def test_every_lab_has_a_model() -> None:
    assert list(catalogue.loads()) == list(LABS)

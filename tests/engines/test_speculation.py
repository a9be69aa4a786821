"""Drafts on their way into a launch: what is refused before a start, memory, and the catalogue's drafts on a Spark."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared import LabError, launch, paths
from shared.engines import ENGINES, Draft, speculation
from shared.engines.spec import Speculation
from shared.hardware import Machine
from shared.launch import memory, reuse, running
from shared.models import ModelChoice
from tests.helpers.fake_spark import FLAGS
from tests.helpers.standin_docker import Docker

HEAD = paths.REPO / "environment" / "eagle3_head"
NGRAM = Draft("ngram", 8)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    launch.stop_all()


def refused(name: str, model: ModelChoice, machine: Machine, draft: Draft, **flags: object) -> str:
    with pytest.raises(LabError) as error:
        speculation.prepare(ENGINES[name], draft, model, "BF16", {f"--{k}": v for k, v in flags.items()}, machine)
    return str(error.value)


def test_an_engine_that_cannot_draft_is_refused(model: ModelChoice, machine: Machine) -> None:
    for draft in (Draft("eagle3", 3, HEAD), NGRAM, Draft("model", 3, HEAD)):
        said = refused("ollama", model, machine, draft)
        assert "can't draft by" in said
        assert "only for models that contain their own" in said
    assert "SGLang can't draft by n-gram look-up here" in refused("sglang", model, machine, NGRAM)
    with pytest.raises(LabError, match="Ollama can't draft by EAGLE-3 here"):
        launch.launch("ollama", model, draft=Draft("eagle3", 3, HEAD), quiet=True)


def test_files_that_are_missing_or_in_another_form(model: ModelChoice, machine: Machine, tmp_path: Path) -> None:
    own = model.weights("Q4_0")
    assert "vLLM needs the files of its draft, but none is given" in refused("vllm", model, machine, Draft("eagle3", 3))
    gone = Draft("eagle3", 3, tmp_path / "gone")
    assert "none is in gone.\nFix: give the path of its GGUF file" in refused("llamacpp", model, machine, gone)
    said = refused("llamacpp", model, machine, Draft("eagle3", 3, HEAD))
    assert "llama.cpp reads a GGUF file, but eagle3_head is a folder" in said
    assert f"vLLM reads a folder, but {own.name} is a file" in refused("vllm", model, machine, Draft("eagle3", 3, own))


def test_a_draft_of_another_model_is_refused(model: ModelChoice, machine: Machine, tmp_path: Path) -> None:
    config = (HEAD / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"target_hidden_size": 576', '"target_hidden_size": 4096'))
    (tmp_path / "model.safetensors").touch()
    for name in ("vllm", "sglang"):
        said = refused(name, model, machine, Draft("eagle3", 3, tmp_path))
        assert f"The draft {tmp_path.name} doesn't fit {model.name}: its target_hidden_size is 4096" in said
    said = refused("llamacpp", model, machine, Draft("eagle3", 3, model.weights("Q4_0")))
    assert "its architecture is llama, which is no EAGLE-3 head" in said


def test_a_flag_and_a_draft_do_not_set_the_same(model: ModelChoice, machine: Machine) -> None:
    said = refused("llamacpp", model, machine, NGRAM, **{"spec-type": "draft-mtp"})
    assert "The flags set --spec-type, which the draft sets too" in said
    synthetic = replace(NGRAM, synthetic_length=2.0)
    assert "vLLM can't accept drafts at random here" in refused("vllm", model, machine, synthetic)


def test_two_of_sglangs_three_numbers_are_refused_before_the_start(model: ModelChoice) -> None:
    flags = {"--speculative-algorithm": "EAGLE3", "--speculative-num-steps": 3, "--speculative-eagle-topk": 1}
    with pytest.raises(LabError, match=r"SGLang can't be started with these flags: it needs all three of"):
        launch.launch("sglang", model, flags, quiet=True)


def test_a_head_becomes_flags_and_its_hash(model: ModelChoice, machine: Machine) -> None:
    found = speculation.prepare(ENGINES["vllm"], Draft("eagle3", 3, HEAD), model, "BF16", {}, machine)
    weights = HEAD / "model.safetensors"
    assert found.bytes == weights.stat().st_size
    assert len(found.weights) == 64
    assert str(HEAD) in str(found.flags)
    assert str(HEAD) not in str(found.provenance())
    quantized = Draft("model", 3, model.weights("Q4_0"))
    found = speculation.prepare(ENGINES["llamacpp"], quantized, model, "BF16", {}, machine)
    assert found.weights == model.sha256("Q4_0")


def test_memory_counts_the_draft(model: ModelChoice, machine: Machine) -> None:
    spec, flags = ENGINES["llamacpp"], {"-c": 8192}
    plain = memory.need(spec, model, "BF16", flags, machine)
    weights = model.file_bytes("Q4_0")
    small = Speculation(Draft("model", 3), {}, "", weights)
    needed = memory.need(spec, model, "BF16", flags, machine, small)
    assert needed.draft == pytest.approx(weights / 2**30 + plain.kv)
    assert needed.total == pytest.approx(plain.total + needed.draft)
    assert f"+ {needed.draft:.1f} for the draft + " in str(needed)
    assert "for the draft" not in str(plain)
    head = memory.need(spec, model, "BF16", flags, machine, Speculation(Draft("eagle3", 3), {}, "", 2**30))
    assert head.draft == pytest.approx(1 + plain.kv / model.layers)  # it keeps keys and values as one layer does
    assert memory.need(spec, model, "BF16", flags, machine, Speculation(NGRAM, {})).draft == 0


def test_engines_with_other_drafts_are_other_engines(model: ModelChoice) -> None:
    """For notebooks that share engines, and for results that are reused."""
    spec, flags = ENGINES["llamacpp"], {"-c": 1024}
    ways = [None, *(Speculation(replace(NGRAM, tokens=k), {}) for k in (4, 8))]
    ways += [Speculation(Draft("eagle3", 3, HEAD), {}, weights) for weights in ("a", "b")]
    found = [str(reuse.identity(spec, model, "BF16", flags, 2, way)) for way in ways]
    assert len(set(found)) == len(ways)


def test_a_temperature_that_would_be_ignored_is_refused(model: ModelChoice) -> None:
    nobody: object = None

    def engine(name: str, draft: Draft | None) -> running.Engine:
        drafts = Speculation(draft, {}) if draft else None
        need = memory.Need("", 0, 0, 0, 0)
        return running.Engine(
            ENGINES[name], model, "BF16", {}, 2, "1", [], 4711, Path("log"), nobody, need, speculation=drafts  # type: ignore[arg-type]
        )  # fmt: skip

    drafting = engine("sglang", Draft("eagle3", 3, HEAD))
    drafting.check_temperature(0)
    with pytest.raises(LabError, match=r"SGLang can't answer at temperature 0\.7 with drafts: .* greedy"):
        drafting.check_temperature(0.7)
    engine("sglang", None).check_temperature(0.7)
    for name in ("llamacpp", "vllm"):
        engine(name, Draft("eagle3", 3, HEAD)).check_temperature(0.7)


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm"])
def test_a_container_takes_the_draft_of_the_catalogue(
    on_a_spark: Docker, spark_model: ModelChoice, spark: Machine, name: str
) -> None:
    source = spark_model.drafts[f"{name} EAGLE-3"]
    with launch.launch(name, spark_model, FLAGS[name], draft=Draft("eagle3", 3), timeout_s=60, quiet=True) as engine:
        assert engine.provenance()["draft"] == {"kind": "eagle3", "tokens": 3, "weights": source.pinned}
        line = " ".join(engine.command)
        assert ("EAGLE3" in line or "eagle3" in line) == (name != "trtllm")  # whose settings are in a file
        assert engine.flags == FLAGS[name]
        engine.check_temperature(0.7)


def test_a_spark_is_told_what_the_catalogue_has(spark_model: ModelChoice, spark: Machine) -> None:
    said = refused("llamacpp", spark_model, spark, Draft("eagle3", 3))
    assert "names no EAGLE-3 of llama-3.1-8b-instruct for llama.cpp; it names: llamacpp draft model" in said
    said = refused("vllm", spark_model, spark, Draft("eagle3", 3, HEAD))
    assert "leave out the path" in said

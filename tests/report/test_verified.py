"""`make verify-spark` and what follows from its ledger.

docker is a stand-in (tests/helpers/standin_docker.py); inside its containers runs the real llama-server, whatever the
engine's name: so llama.cpp must pass, and what only calls itself vLLM must not.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from environment import compose, verify_spark
from shared import LabError, launch, models, paths
from shared.course.speculation.speedups import Round, Rounds, Setting
from shared.engines.draft_counts import DraftCounts
from shared.hardware import Machine
from shared.launch import containers
from shared.models import ModelChoice
from shared.report import verified
from tests.helpers.standin_docker import Docker

CACHE = paths.cache()  # the real one, before a test points elsewhere


@pytest.fixture
def ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "verified"
    folder.mkdir()
    monkeypatch.setattr(verified, "LEDGERS", folder)
    for module, name, file in ((verify_spark, "README", paths.REPO / "README.md"), (compose, "FILE", compose.FILE)):
        shutil.copy(file, tmp_path / file.name)
        monkeypatch.setattr(module, name, tmp_path / file.name)
    return folder


def ledger(folder: Path, name: str = "a.json", **changes: object) -> dict[str, object]:
    image = containers.images()["sglang"]
    checks = [{"name": "answers", "ok": True, "observed": "after 90 s"}]
    row = {"image": f"{image.image}:{image.tag}", "checks": checks, **changes}
    whole = {"schema": 1, "date": "2026-12-01", "machine": {"name": "DGX Spark"}, "engines": {"sglang": row}}
    (folder / name).write_text(json.dumps(whole))
    return whole


def test_without_a_ledger_nothing_is_verified(ledgers: Path) -> None:
    assert verified.banner().startswith(
        "Not verified on hardware: the containers of Ollama, llama.cpp, vLLM, SGLang and TensorRT-LLM."
    )


def test_a_ledger_verifies_the_version_that_it_names_and_no_other(ledgers: Path) -> None:
    ledger(ledgers)
    assert verified.banner().startswith("Verified on hardware: SGLang (lmsysorg/sglang:")
    assert (
        "on DGX Spark, 2026-12-01. Not verified on hardware: the containers of Ollama, llama.cpp, vLLM and Tensor"
        in (verified.banner())
    )
    ledger(ledgers, image="lmsysorg/sglang:v0.0.1")
    assert verified.verified("sglang") is None
    ledger(ledgers, checks=[{"name": "stops", "ok": False, "observed": "still there"}])
    assert verified.verified("sglang") is None
    ledger(ledgers, checks=[])
    assert verified.verified("sglang") is None


def test_a_ledger_that_cannot_be_read_is_named(ledgers: Path) -> None:
    (ledgers / "torn.json").write_bytes(b"\0" * 100)
    with pytest.raises(LabError, match=r"torn\.json is not a ledger"):
        verified.banner()
    (ledgers / "torn.json").write_text('{"schema": 99}')
    with pytest.raises(LabError, match=r"torn\.json has schema 99, but these labs read 1"):
        verified.banner()


def test_readme_and_compose_say_what_the_ledgers_say() -> None:
    said = re.search("<!-- verified -->(.*)<!-- /verified -->", (paths.REPO / "README.md").read_text(), re.S)
    assert said
    assert said[1] == verified.banner()
    head = " ".join(line.removeprefix("# ") for line in compose.FILE.read_text().splitlines()[:8])
    assert verified.banner() in head


def test_a_machine_without_containers_is_told_why(ledgers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_PROFILE", "cpu")
    with pytest.raises(LabError, match=r"Containers can't be verified here: .*\nFix: run `make doctor`"):
        verify_spark.main([])
    with pytest.raises(LabError, match="There is no engine 'lama'"):
        verify_spark.main(["lama"])


def test_a_second_run_of_a_day_keeps_what_the_first_has_verified(
    ledgers: Path, spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a freeze, when only the engines that are left are named."""

    def passes(name: str, model: ModelChoice, report: verify_spark.Report) -> None:
        report.add("answers", True, "after 90 s")

    monkeypatch.setattr(verify_spark, "detect", lambda: spark)
    monkeypatch.setattr(models, "choose", lambda _: spark_model)
    monkeypatch.setattr(verify_spark, "verify_engine", passes)
    assert verify_spark.main(["vllm"]) == 0
    [first] = ledgers.iterdir()
    before = first.read_bytes()
    assert verify_spark.main(["sglang"]) == 0
    assert verify_spark.main(["llamacpp"]) == 0
    assert first.read_bytes() == before
    assert {file.name.removeprefix(first.stem) for file in ledgers.iterdir()} == {".json", "-2.json", "-3.json"}
    assert all(verified.verified(name) for name in ("vllm", "sglang", "llamacpp"))


@pytest.fixture
def real_inside(
    on_a_spark: Docker,
    spark: Machine,
    spark_model: ModelChoice,
    model: ModelChoice,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Docker]:
    """Each container runs the real llama-server with the real small model."""
    server = (CACHE / "engines" / "llamacpp" / "bin" / "llama-server").resolve()
    inside = [str(server), "--model", str(model.weights("BF16")), "--port", "{port}", "--metrics", "-c", "8192"]
    inside += ["--threads", "1"]  # other tests run meanwhile
    on_a_spark.says(inside=inside)
    monkeypatch.setattr(verify_spark, "detect", lambda: spark)
    monkeypatch.setattr(models, "choose", lambda _: replace(spark_model, drafts={}, system=model.system))
    monkeypatch.setattr(verify_spark, "KNOWN", (("What is gravity?", "fundamental"), ("What is a rainbow?", "light")))
    yield on_a_spark
    launch.stop_all()


@pytest.mark.programs
def test_what_answers_as_llamacpp_does_is_verified_and_what_only_says_it_is_vllm_is_not(
    real_inside: Docker, ledgers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_spark.main(["llamacpp", "vllm"]) == 1
    [file] = ledgers.iterdir()
    written = json.loads(file.read_text())
    checks = {name: {c["name"]: c["ok"] for c in row["checks"]} for name, row in written["engines"].items()}
    assert all(checks["llamacpp"].values())
    assert {
        "answers",
        "knows: What is gravity?",
        "streams",
        "counts its tokens",
        "stops",
        "begins as the others do",
    } <= set(checks["llamacpp"])
    assert checks["vllm"]["counts its tokens"] is False
    assert written["machine"]["name"] == "DGX Spark"
    assert "student" not in file.read_text()
    assert real_inside.containers() == []
    assert verified.banner().startswith("Verified on hardware: llama.cpp (ghcr.io/ggml-org/llama.cpp:")
    assert verified.banner() in (tmp_path / "README.md").read_text()
    assert "FAILED counts its tokens" in capsys.readouterr().out


@pytest.mark.programs
def test_a_head_is_timed_beside_plain_decoding(
    real_inside: Docker, ledgers: Path, spark_model: ModelChoice, model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {"vllm EAGLE-3": spark_model.drafts["vllm EAGLE-3"]}
    monkeypatch.setattr(models, "choose", lambda _: replace(spark_model, drafts=heads, system=model.system))
    for name, value in (("USERS", (1, 2)), ("ROUNDS", 2), ("ANSWERS", 1), ("TOKENS", 16)):
        monkeypatch.setattr(verify_spark, name, value)
    assert verify_spark.main(["vllm"]) == 1  # inside runs no vLLM, and it drafts nothing
    [file] = ledgers.iterdir()
    row = json.loads(file.read_text())["engines"]["vllm"]
    assert [one["users"] for one in row["drafts"]] == [1, 2]
    for one in row["drafts"]:
        assert one["head"] == heads["vllm EAGLE-3"].pinned
        assert len(one["plain_ms_per_token"]) == len(one["drafted_ms_per_token"]) == 2
        middle, low, high = one["speed_up"]
        assert 0 < low <= middle <= high
        assert (one["accepted"], one["tokens_a_step"]) == (None, None)  # nothing inside counts drafts as vLLM does
    checks = {check["name"]: check for check in row["checks"]}
    assert checks["speculates: timed"]["ok"]
    said = checks["speculates: timed"]["observed"]
    assert re.match(r"1 user: .+ times as fast as plain \(.+ ms per token\); 2 users: ", said)
    assert not checks["speculates: drafts accepted"]["ok"]


def test_a_head_that_loses_fails_no_check_and_is_said(spark_model: ModelChoice) -> None:
    setting = Setting("sglang", "eagle3", 3, "short", 4)
    counts = DraftCounts(100, 300, 60, None)
    found = {
        setting.plain: Rounds(setting.plain, {n: Round(50.0 + n, 900.0, 160, None) for n in (1, 2, 3)}),
        setting: Rounds(setting, {n: Round(80.0 + n, 1400.0, 160, counts) for n in (1, 2)}),  # a round failed
    }
    one = verify_spark.compared(found, setting, spark_model)
    assert (one["verdict"], one["users"], one["drafts_a_step"]) == ("slower", 4, 3)
    assert (one["plain_ms_per_token"], one["drafted_ms_per_token"]) == ([51, 52, 53], [81, 82])
    assert one["accepted"] == pytest.approx(0.2)
    assert one["head"].startswith("lmsys/sglang-EAGLE3")
    said = "4 users: 0.632 (0.63–0.634) times as fast as plain (52 to 81.5 ms per token, 20 % accepted)"
    assert verify_spark.as_text(one) == said
    alone = verify_spark.compared({setting: found[setting]}, setting, spark_model)
    assert verify_spark.as_text(alone) == "4 users: no plain decoding to compare with"


@pytest.mark.programs
def test_an_engine_that_does_not_start_costs_only_itself(real_inside: Docker, ledgers: Path) -> None:
    real_inside.says(run_fails="no space left on device")
    assert verify_spark.main(["llamacpp"]) == 1
    [file] = ledgers.iterdir()
    [check] = json.loads(file.read_text())["engines"]["llamacpp"]["checks"]
    assert check["name"] == "ran to the end"
    assert "the disk is full" in check["observed"]

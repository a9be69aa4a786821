"""Ray Serve LLM without Ray: its configuration is checked, and what can't be started is named with its fix."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from environment.install import choose
from environment.scale_out.ray_serve import cluster, configuration
from shared import LabError, hardware, models, paths
from shared.engines.spec import LaunchPlan
from shared.launch.process import Guarded
from shared.launch.running import Engine
from shared.processes import start_time
from tests.helpers.processes import eventually


def given(**changes: Any) -> dict[str, Any]:
    """The repository's configuration with these tables changed: `llm__engine_kwargs={...}` adds to that table."""
    found = configuration.read()
    for path, more in changes.items():
        *outer, last = path.split("__")
        table = found
        for name in outer:
            table = table.setdefault(name, {})
        table[last] = {**table.get(last, {}), **more} if isinstance(more, dict) else more
    return found


def test_the_repositorys_configuration_has_no_fault() -> None:
    assert configuration.faults(configuration.read()) == []
    assert configuration.replicas_of(configuration.read()) == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"serve": {}}, "there is no serve; known here: ray, ingress, llm"),
    ({"llm": []}, "llm is [], but must be of type dict"),
    ({"llm__model_loding_config": {}}, "there is no llm.model_loding_config"),
    ({"llm__log_engine_metrics": 1}, "llm.log_engine_metrics is 1, but must be of type bool"),
    ({"llm__deployment_config": {"replicas": 2}}, "there is no llm.deployment_config.replicas"),
    ({"llm__deployment_config": {"num_replicas": True}}, "llm.deployment_config.num_replicas is True"),
    ({"llm__deployment_config": {"num_replicas": 0}}, "the number of replicas is 0"),
    ({"llm__deployment_config": {"num_replicas": 8}}, "8 replicas and their ingress book 17 CPUs"),
    ({"llm__engine_kwargs": {"max_model_length": 2048}}, "llm.engine_kwargs.max_model_length"),
    ({"llm__engine_kwargs": {"max_num_seqs": "many"}}, "--max-num-seqs takes no 'many', but int"),
    ({"llm__engine_kwargs": {"model": "gpt2"}}, "llm.engine_kwargs.model can't be set: model_loading_config names"),
    ({"llm__engine_kwargs": {"distributed_executor_backend": "ray"}}, "Ray chooses it by what a replica books"),
    ({"llm__engine_kwargs": {"disable_log_stats": True}, "llm__log_engine_metrics": True}, "takes away what"),
    ({"llm__placement_group_config": {"bundles": [{"CPU": 1, "GPU": 1}]}}, "a replica books a GPU"),
    ({"llm__placement_group_config": {"bundles": []}}, "llm.placement_group_config holds []"),
    ({"llm__placement_group_config": {"bundles": [{"CPU": "one"}]}}, "a bundle is a table of numbers"),
    ({"llm__placement_group_config": {"strategy": "pack"}}, "strategy is 'pack', but must be one of PACK"),
    ({"llm__placement_group_config": {"bundle": {"CPU": 1}}}, "there is no llm.placement_group_config.bundle;"),
    ({"llm__experimental_configs": {"num_router_replicas": 1}}, "there is no llm.experimental_configs.num_router"),
    ({"llm__runtime_env": {"env_vars": {"VLLM_CPU_KVCACHE_SPACE": 1}}}, "must be a text: put it in quotes"),
    ({"llm__runtime_env": {"pip": ["ray"]}}, "there is no llm.runtime_env.pip"),
    ({"ray": {"num_cpus": 4}}, "book 5 CPUs, but ray.num_cpus is 4: Ray would wait for ever"),
    ({"ray": {"object_store_memory": 1000}}, "less than the 78643200 bytes that Ray needs"),
    ({"ray": {"dashboard_host": "0.0.0.0"}}, "there is no ray.dashboard_host"),
    ({"ingress": {"num_replicas": "two"}}, "ingress.num_replicas is 'two', but must be of type int"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_a_fault_is_named(changes: dict[str, Any], said: str) -> None:
    found = configuration.faults(given(**changes))
    assert any(said in fault for fault in found), found


def test_a_replica_without_bundles_books_a_gpu_unless_it_is_of_the_kind_cpu() -> None:
    assert "a replica books a GPU" in configuration.faults({})[0]
    assert configuration.faults({"llm": {"accelerator_config": {"kind": "cpu"}}}) == []


def test_several_faults_are_named_together(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('[llm.engine_kwargs]\nmodel = "x"\nmax_len = 3\n')
    with pytest.raises(LabError, match=r"(?s)engine_kwargs\.model .*engine_kwargs\.max_len.*Fix: correct the file"):
        configuration.read(file)


@pytest.mark.parametrize(("text", "said"), [("[llm", "is not TOML"), (None, "can't be read")])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "serve.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LabError, match=said):
        configuration.read(file)


def test_the_number_of_replicas_can_be_chosen() -> None:
    before = configuration.read()
    assert configuration.replicas_of(configuration.with_replicas(before, 3)) == 3
    assert configuration.replicas_of(configuration.with_replicas(before, None)) == 2
    assert configuration.replicas_of(before) == 2
    for count in (0, 9):
        with pytest.raises(LabError, match="choose fewer replicas"):
            configuration.with_replicas(before, count)


def test_the_program_adds_model_threads_and_data_type() -> None:
    before = configuration.read()
    args = configuration.serving_args(before, "smollm2", "/models/smollm2", "bfloat16", 1)
    assert before == configuration.read()
    [llm] = args["llm_configs"]
    assert llm["model_loading_config"] == {"model_id": "smollm2", "model_source": "/models/smollm2"}
    assert llm["engine_kwargs"]["dtype"] == "bfloat16"
    assert llm["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert llm["runtime_env"]["env_vars"]["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert args["ingress_deployment_config"] == {"num_replicas": 1}
    assert list(configuration.misfits("llm.", llm, configuration.LLM_FIELDS)) == []


def test_replicas_divide_the_cores(machine: hardware.Machine) -> None:
    two = replace(machine, cores=2)
    assert [cluster.threads_of_each(count, two) for count in (1, 2, 3)] == [2, 1, 1]


def start(cache: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-m", "environment.scale_out.ray_serve.start", *arguments]
    env = {**os.environ, "LABS_CACHE": str(cache)}
    return subprocess.run(program, cwd=paths.REPO, env=env, capture_output=True, text=True, timeout=120)


def pretend_installed(cache: Path) -> None:
    (cache / "ray-serve").mkdir()
    (cache / "ray-serve" / "installed.json").write_text(json.dumps({"version": "2.60.0"}))


def test_without_its_installation_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    said = start(tmp_path)
    assert said.returncode == 1
    assert "Ray Serve LLM is not installed" in said.stderr
    assert "Fix: make scale-out" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_wrong_configuration_is_named_before_anything_starts(tmp_path: Path) -> None:
    pretend_installed(tmp_path)
    (tmp_path / "serve.toml").write_text("[ray]\nnum_cpus = 2\n[llm.placement_group_config]\nbundles = [{ CPU = 1 }]\n")
    said = start(tmp_path, "--config", str(tmp_path / "serve.toml"))
    assert said.returncode == 1
    assert "book 3 CPUs, but ray.num_cpus is 2" in said.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    pretend_installed(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = start(tmp_path, "--port", str(port))
    assert said.returncode == 1
    assert f"Port {port} of 127.0.0.1 is taken by another program." in said.stderr


def test_too_little_memory_is_named_with_its_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: hardware.Machine
) -> None:
    pretend_installed(tmp_path)
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    monkeypatch.setattr(models.ModelChoice, "file_bytes", lambda *_: 2**28)
    monkeypatch.setattr(hardware, "detect", lambda: replace(machine, available_gib=4.0))
    with pytest.raises(LabError, match=r"0\.5 GiB for weights \+ 2\.0 for the KV cache .* only 4\.0 GiB are available"):
        cluster.start(2)


@pytest.mark.parametrize("fails", ["weights", "start"])
def test_a_start_that_fails_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: hardware.Machine, fails: str
) -> None:
    def fail(*_: object) -> None:
        raise LabError("It can't be started.")

    pretend_installed(tmp_path)
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    monkeypatch.setattr(models.ModelChoice, "file_bytes", lambda *_: 2**28)
    monkeypatch.setattr(models.ModelChoice, "weights", fail if fails == "weights" else lambda *_: tmp_path)
    monkeypatch.setattr(cluster, "start_guarded", fail)
    monkeypatch.setattr(hardware, "detect", lambda: replace(machine, available_gib=400.0))
    there = set(Path("/tmp").glob("labs-ray-*"))
    with pytest.raises(LabError, match="can't be started"):
        cluster.start(2)
    assert set(Path("/tmp").glob("labs-ray-*")) == there


def test_it_is_installed_only_where_it_is_named() -> None:
    assert "ray-serve" not in choose([])
    assert "ray-serve" in choose(["ray-serve"])


LOG = """\
INFO 2026-11-26 18:20:01,250 llm_LLMServer:m 9xk2 -- Started vLLM engine.
INFO 2026-11-26 18:20:02,500 llm_LLMServer:m 9xk2 0b5e6d -- CALL chat OK 412.3ms
ERROR 2026-11-26 18:20:03,000 llm_LLMServer:m 9xk2 1c5e6d -- CALL chat CANCELLED 12.0ms
INFO 2026-11-26 18:20:04,750 llm_LLMServer:m 9xk2 2d5e6d -- CALL chat OK 398.1ms
"""


def test_a_replicas_log_tells_when_it_answered() -> None:
    first, second = cluster.finished(LOG)
    assert second - first == pytest.approx(2.25)
    assert cluster.finished("") == []


@pytest.fixture
def pretended(tmp_path: Path) -> "Callable[[str], cluster.Cluster]":
    """A cluster whose processes are made by a shell."""

    def made(script: str) -> cluster.Cluster:
        log = tmp_path / "log"
        with log.open("wb") as out:
            process = Guarded(["bash", "-c", script], out)
        model, spec = models.small(), cluster.spec()
        plan = LaunchPlan(tmp_path, model, "BF16", 1, 1)
        engine = Engine(spec, plan.model, "BF16", {}, 1, "", [], 1, log, process, cluster.need(1))
        return cluster.Cluster(engine, 1, tmp_path / "ray")

    return made


REPLICAS = """
exec -a ray::ServeReplica:llm:OpenAiIngress sleep 100 &
exec -a ray::ServeReplica:llm:LLMServer:m bash -c 'sleep 100 & wait' &
wait
"""


def test_a_killed_replica_dies_with_its_engine_and_the_ingress_lives(
    pretended: "Callable[[str], cluster.Cluster]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.ModelChoice, "file_bytes", lambda *_: 2**28)
    with pretended(REPLICAS) as running:
        assert eventually(lambda: len(running.replica_pids()) == 1)
        [replica] = running.replica_pids()
        assert eventually(lambda: bool(psutil.Process(replica).children()))
        [child] = psutil.Process(replica).children()
        others = [p.pid for p in psutil.Process(running.engine.process.pid).children(recursive=True)]
        running.kill_replica()
        assert eventually(lambda: start_time(replica) is None and start_time(child.pid) is None)
        ingress = [pid for pid in others if start_time(pid) and "OpenAiIngress" in psutil.Process(pid).cmdline()[0]]
        assert ingress
        assert running.engine.alive
        with pytest.raises(LabError, match="no replica that could be killed"):
            running.kill_replica()
    assert start_time(ingress[0]) is None


def test_only_a_replica_that_was_not_there_before_counts_as_a_new_one(
    pretended: "Callable[[str], cluster.Cluster]", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models.ModelChoice, "file_bytes", lambda *_: 2**28)
    logs = tmp_path / "ray" / "session_2026" / "logs" / "serve"
    logs.mkdir(parents=True)
    with pretended("exec -a ray::ServeReplica:llm:LLMServer:m sleep 100 & wait") as running:
        (logs / "replica_llm_LLMServer_m_a.log").write_text(LOG)
        assert eventually(lambda: len(running.replica_pids()) == 1)
        running.kill_replica()
        assert running.revived_s() is None
        (logs / "replica_llm_LLMServer_m_b.log").write_text("")
        assert running.revived_s() is None
        (logs / "replica_llm_LLMServer_m_b.log").write_text(LOG.replace("18:2", "18:3"))
        assert running.revived_s() == cluster.finished(LOG.replace("18:2", "18:3"))[0]
        assert len(running.answers()) == 2
    assert not (tmp_path / "ray").exists()

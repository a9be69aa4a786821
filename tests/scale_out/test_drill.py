"""Ray Serve LLM for real (make drill): the fields that it knows, the gateway before it, and the quick benchmark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from environment.scale_out.ray_serve import cluster, configuration
from shared import paths
from shared.processes import descendants
from shared.results import scale_out
from tests.bench import scale_out as bench
from tests.bench import scale_out_table as shown
from tests.helpers.gateway import bearer, running, write_keys

pytestmark = pytest.mark.drill

FIELDS = "import json, ray.serve.llm as llm; print(json.dumps(sorted(llm.LLMConfig.model_fields)))"


def rays_processes() -> list[str]:
    """The command lines of all processes that name a folder of a cluster of the labs."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "/tmp/labs-ray-" in line]


def open_to_others(pid: int) -> set[tuple[str, int]]:
    """The addresses on which these processes wait for programs of other machines."""
    waiting = {
        (str(one.laddr[0]), int(one.laddr[1]))
        for process in (pid, *descendants(pid))
        for one in psutil.Process(process).net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    assert waiting
    return {(host, port) for host, port in waiting if host.removeprefix("::ffff:") not in ("127.0.0.1", "::1")}


def test_the_configuration_check_knows_the_fields_of_this_ray() -> None:
    said = subprocess.run(
        [str(cluster.home() / "venv" / "bin" / "python"), "-c", FIELDS], capture_output=True, text=True, timeout=300
    )
    assert set(json.loads(said.stdout.splitlines()[-1])) == set(configuration.LLM_FIELDS), said.stderr


def test_before_ray_the_gateway_keeps_its_keys_and_counters(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"anna": {"limits": {"concurrent": 1}}})
    with cluster.start(1) as ray:
        asked = {"model": ray.engine.served_name, "ignore_eos": True}
        with running(tmp_path, {"ray": ray.engine.url}, keys_file=str(keys)) as gateway:
            assert gateway.chat(**asked).status_code == 401
            answer = gateway.client.post(
                "/v1/chat/completions",
                json={**asked, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8},
                headers=bearer("anna"),
            )
            assert answer.status_code == 200, answer.text
            assert gateway.count("generation_tokens_total") == 8
        assert rays_processes()
        assert open_to_others(ray.engine.process.pid) == set()
    assert rays_processes() == []


def test_the_quick_benchmark(own_results: Path) -> None:
    program = [sys.executable, "-m", "tests.bench.scale_out", "--quick"]
    env = {**os.environ, "LABS_RESULTS": str(own_results)}
    said = subprocess.run(program, cwd=paths.REPO, env=env, capture_output=True, text=True, timeout=3000)
    assert said.returncode == 0, said.stdout + said.stderr
    found = scale_out.read(scale_out.file())
    assert set(found.columns) == set(scale_out.SYSTEMS), found.notes
    for name, cells in found.columns.items():
        killed = name in ("ray-2", "gateway-ray", "gateway-vllm")
        wanted = {row.key for row in shown.rows(found.users) if killed or not row.key.startswith("kill_")}
        assert set(cells) == wanted, (name, found.notes)
        assert all(len(values) == bench.QUICK.rounds for values in cells.values())
        assert cells["failed"] == [0], found.notes
    assert rays_processes() == []
    assert not list(Path("/tmp").glob("labs-ray-*"))

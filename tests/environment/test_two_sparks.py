"""The start scripts of two Sparks, and their preflight between two network namespaces."""

import json
import os
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from environment.scale_out import two_sparks, two_sparks_preflight
from environment.scale_out.two_sparks_config import CONFIG, RAY_IMAGE, read
from environment.scale_out.two_sparks_preflight import Answer, Check, Run
from shared import LabError
from shared.engines.published_flags import unknown
from shared.launch import containers

GOLDEN = Path(__file__).with_name("two_sparks_scripts.txt")
EXAMPLE = CONFIG.read_text()


def changed(folder: Path, old: str, new: str) -> Path:
    assert old in EXAMPLE
    file = folder / "two_sparks.toml"
    file.write_text(EXAMPLE.replace(old, new))
    return file


def as_text(scripts: dict[str, str]) -> str:
    return "\n".join(f"## {name}\n{text}" for name, text in scripts.items())


def test_the_scripts_are_those_that_were_looked_at() -> None:
    """After an intended change, run: python -m tests.environment.test_two_sparks"""
    assert as_text(two_sparks.scripts(read())) == GOLDEN.read_text()


@pytest.mark.parametrize("name", two_sparks.scripts(read()))
def test_bash_reads_each_script(name: str, tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_text(two_sparks.scripts(read())[name])
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    assert "Not verified on hardware" in script.read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_word_without_ray_is_published(rank: int) -> None:
    line = two_sparks.serve(read(), rank, ray=False)
    image = line.index(containers.images()["vllm"].reference)
    assert unknown("docker", line[: image + 1]) == []
    assert unknown("vllm", ["vllm", "serve", *line[image + 1 :]]) == []
    assert ("--headless" in line) == (rank == 1)
    assert "--publish" not in line
    assert not [word for word in line if word.startswith("--restart")]


@pytest.mark.parametrize("rank", [0, 1])
def test_with_ray_vllm_runs_on_the_head_only(rank: int) -> None:
    line = two_sparks.serve(read(), rank, ray=True)
    assert unknown("docker", [*line[: line.index("--entrypoint") + 2], line[-3]]) == []
    ray, _, engine = line[-1].partition(" && exec ")
    assert unknown("ray", shlex.split(ray)) == []
    assert unknown("vllm", shlex.split(engine)) == []
    assert engine.startswith("vllm serve") == (rank == 0)
    assert ("--block" in line[-1]) == (rank == 1)
    assert "--nnodes" not in line[-1]


def test_a_flag_that_vllm_lacks_stops_the_scripts(tmp_path: Path) -> None:
    pair = read(changed(tmp_path, '"--max-num-seqs" = 16', '"--max-num-seqs" = 16\n"--max-users" = 3'))
    with pytest.raises(LabError, match="vllm serve has no --max-users"):
        two_sparks.scripts(pair)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port = 8000 ", "ports = 8000 ", "port is missing"),
        ("mtu = 9000 ", "mtu = 90000 ", "mtu is 90000"),
        ("mtu = 9000 ", 'mtu = "9000" ', "mtu is '9000'"),
        ("mtu = 9000 ", "mtu = 9000\nusers = 3 ", "a key 'users' that nothing reads"),
        ("[worker]", "[other]", "worker is missing"),
        ('"192.168.100.11"', '"192.168.100.10"', "the same address"),
        ('"192.168.100.11"', '"spark-2"', "worker.address is 'spark-2'"),
        ('"nvidia@spark-2.local"', '"-oProxyCommand=x"', "worker.ssh is"),
        ('[head] #', '[head]\ncable = 1 #', "a key 'cable' that nothing reads"),
        ('interface = "enp1s0f0np0"', 'interface = "a b"', "head.interface or head.rdma is malformed"),
        ('rdma = ["rocep1s0f0", "roceP2p1s0f0"] ', "rdma = [] ", "head.interface or head.rdma is malformed"),
        ('hub = "/data/huggingface"', 'hub = "~/hub"', "head.hub is '~/hub'"),
        ("master_port = 29501", "master_port = 8000", "the ports are"),
        ("revision = \"6f6073b4", 'revision = "main', "revision is malformed"),
        ("kv_heads = 8", "kv_heads = 3", "3 KV heads"),
        ('"--max-model-len" = 4096', "", "no limit for the KV cache"),
        ("141_107_412_992", "820_000_000_000", "freezes"),
        ("[flags]", "[flag]", r"\[flags\] is missing"),
        ("port = 8000 ", "port = = ", "can't be read"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_refused_with_what_to_change(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=message) as refused:
        read(changed(tmp_path, old, new))
    assert refused.value.fix


def test_the_index_of_the_worker_is_optional(tmp_path: Path) -> None:
    assert "gid_index" not in tomllib.loads(EXAMPLE)["worker"]
    pair = read(changed(tmp_path, "# gid_index = 3", "gid_index = 5"))
    assert "NCCL_IB_GID_INDEX=5" in two_sparks.serve(pair, 1, ray=False)
    assert not [word for word in two_sparks.serve(pair, 0, ray=False) if "GID_INDEX" in word]


def test_the_command_writes_the_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert two_sparks.main(["--to", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == set(two_sparks.scripts(read()))
    assert all(os.access(file, os.X_OK) for file in tmp_path.iterdir())  # scp keeps that
    assert "not verified on hardware" in capsys.readouterr().out


def answers(run: Run, known: dict[str, Answer]) -> Run:
    """Runs commands, except those that begin with a known text."""

    def answered(words: Sequence[str]) -> Answer:
        found = [answer for begin, answer in known.items() if " ".join(words).startswith(begin)]
        return found[0] if found else run(words)

    return answered


def failed(checks: Sequence[Check]) -> list[str]:
    return [f"{check.name}: {check.found}" for check in checks if not check.ok]


def nothing_runs(words: Sequence[str]) -> Answer:
    raise AssertionError(words)


def test_without_ssh_nothing_else_is_tried() -> None:
    refused = answers(nothing_runs, {"true": Answer(255, "Permission denied (publickey).")})
    checks = two_sparks_preflight.preflight(read(), head=nothing_runs, worker=refused)
    assert failed(checks) == ["the worker is reached by ssh: Permission denied (publickey)."]
    assert "ssh-copy-id nvidia@spark-2.local" in two_sparks_preflight.report(checks)


def test_with_ray_its_image_and_port_are_checked() -> None:
    pair = read()
    asked: list[str] = []

    def machine(address: str) -> Run:
        found = {"operstate": "UP", "mtu": 9000, "addr_info": [{"family": "inet", "local": address}]}
        known = {
            "true": Answer(0, ""),
            "ip": Answer(0, json.dumps([found])),
            "python3": Answer(0, "ok"),
            "ls": Answer(0, "rocep1s0f0\nroceP2p1s0f0"),
            "docker": Answer(0, "sha256:1"),
            "find": Answer(0, "model.safetensors 1"),
            "cat": Answer(0, "MemAvailable: 120000000 kB"),
            "ss": Answer(0, "LISTEN 0 128 0.0.0.0:6379 0.0.0.0:* "),
        }

        def run(words: Sequence[str]) -> Answer:
            asked.append(" ".join(words))
            return answers(nothing_runs, known)(words)

        return run

    checks = two_sparks_preflight.preflight(pair, True, machine(pair.head.address), machine(pair.worker.address))
    assert failed(checks) == ["head: ports 8000, 6379 are free: taken: 6379"]
    assert [line for line in asked if line.startswith("docker")] == [
        f"docker image inspect --format {{{{.Id}}}} {RAY_IMAGE}"
    ] * 2


def test_the_weights_are_fetched_once_and_not_in_metas_own_form_too() -> None:
    pair, absent = read(), answers(nothing_runs, {"find": Answer(1, "no such folder")})
    check = two_sparks_preflight.same_weights(pair, absent, absent)
    assert not check.ok
    words = shlex.split(check.fix.rpartition(": ")[2])
    assert words[:3] == ["hf", "download", pair.repository]
    assert words[-2:] == ["--exclude", "original/*"]


def test_ssh_never_asks_for_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sparks_preflight, "here", lambda words: Answer(0, " ".join(words)))
    text = two_sparks_preflight.by_ssh("a@b")(["ls", "x y"]).text
    assert text == "ssh -o BatchMode=yes -o ConnectTimeout=5 a@b ls 'x y'"


if __name__ == "__main__":
    GOLDEN.write_text(as_text(two_sparks.scripts(read())))

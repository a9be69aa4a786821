"""Each symptom is recognised in lines of its published report, and only in these."""

import re

import pytest

from shared.engines import ENGINES
from shared.hardware.symptoms import MAINTAINER, ONE, SEVERAL, recognised, rows

SYMPTOMS = rows("spark")

# symptom → lines of a published report, with its address in a comment
EXCERPTS = [
    (
        "vLLM refuses to start for too little free memory, with or without a given size of the KV cache",
        # the message of pytorch/pytorch#175666, with the figures of llamastash/llamastash#80 (52 of 121.69 GiB free)
        "(EngineCore pid=301) ValueError: Free memory on device cuda:0 (52.0/121.69 GiB) on startup is less than "
        "desired GPU memory utilization (0.92, 111.95 GiB). Decrease GPU memory utilization or reduce GPU memory used "
        "by other processes.",
    ),
    (
        "vLLM refuses to start for too little free memory",
        # https://github.com/pytorch/pytorch/issues/175666
        "[2026-02-24T20:21:58Z] (EngineCore_DP0 pid=6940) ValueError: Free memory on device cuda:1 (19.77/22.05 GiB) "
        "on startup is less than desired GPU memory utilization (0.9, 19.84 GiB). Decrease GPU memory utilization or "
        "reduce GPU memory used by other processes.",
    ),
    (
        "vLLM finds next to no memory, or less than none, for the KV cache",
        # https://github.com/MiaAI-Lab/GLM-5.3-Flash-NVFP4-Dual-DGX-Spark/pull/2
        "INFO 08-28 10:11:12 [gpu_worker.py:440] Available KV cache memory: -2.26 GiB",
    ),
    (
        "vLLM finds next to no memory, or less than none, for the KV cache",
        # https://github.com/vllm-project/vllm/issues/27508
        'ERROR 10-25 13:08:43 [core.py:708]     raise ValueError("No available memory for the cache blocks. "',
    ),
    (
        "Memory falls by tens of GiB within seconds, right after the weights are loaded",
        # https://github.com/NVIDIA/open-gpu-kernel-modules/issues/1358, and so vllm-project/vllm#56824
        "NVRM: nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051) returned from "
        "_memdescAllocInternal(pMemDesc) @ mem_desc.c:1359",
    ),
    (
        "Two Sparks can't be joined: NCCL fails to register memory",
        # https://github.com/MiaAI-Lab/DeepSeek-v4.1-Flash-DGX-Sparks/issues/14
        "Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory",
    ),
    (
        "CUDA refuses PTX of an unsupported version",
        # https://github.com/vllm-project/vllm/issues/31700
        "(EngineCore_DP0 pid=15638) ERROR 01-05 12:12:01 [core.py:842] torch.AcceleratorError: CUDA error: the "
        "provided PTX was compiled with an unsupported toolchain.\n(EngineCore_DP0 pid=15638) ERROR 01-05 12:12:01 "
        "[core.py:842] Search for `cudaErrorUnsupportedPtxVersion' in https://docs.nvidia.com",
    ),
    (
        "Triton's compiler doesn't know the GPU",
        # https://github.com/triton-lang/triton/issues/8539
        "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
    ),
    (
        "CUDA finds no kernel for the GPU",
        # https://github.com/pytorch/pytorch/issues/31285
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    ),
    (
        "docker refuses --gpus",
        # https://github.com/dstackai/dstack/issues/2306
        "error running prestart hook #0: exit status 1, stdout: , stderr: Using requested mode 'cdi'\n"
        "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not supported."
        " Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead.: unknown.",
    ),
    (
        "docker can't give the GPU to a container",
        # https://github.com/hiyouga/LlamaFactory/issues/5268
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
    ),
    (
        "docker can't give the GPU to a container",
        # https://github.com/NVIDIA/nvidia-docker/issues/838
        "docker: Error response from daemon: Unknown runtime specified nvidia.",
    ),
    (
        "docker works with sudo only",
        # https://github.com/chrisjbawden/cockpit-dockermanager/issues/37
        "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock",
    ),
    (
        "docker works with sudo only",
        # https://github.com/docker/docs/issues/12793
        "docker: Got permission denied while trying to connect to the Docker daemon socket at "
        "unix:///var/run/docker.sock: dial unix /var/run/docker.sock: connect: permission denied.",
    ),
]
# These leave no line in a log; only people see them.
SEEN = [
    "The machine answers ping, but ssh hangs",
    "The engine is healthy and answers nonsense",
    "Ollama is several times slower than expected",
]


@pytest.mark.parametrize(("symptom", "lines"), EXCERPTS)
def test_a_symptom_is_recognised_in_its_reports_words(symptom: str, lines: str) -> None:
    found = recognised(f"INFO: starting up\n{lines}\nINFO: shutting down\n".splitlines(), "spark")
    assert found[0][0].symptom == symptom
    special = "vLLM refuses to start for too little free memory, with or without a given size of the KV cache"
    assert len(found) == (2 if symptom == special else 1)


def test_every_row_is_either_recognised_or_seen() -> None:
    assert [s.symptom for s in SYMPTOMS if not s.pattern] == SEEN
    assert {s.symptom for s in SYMPTOMS if s.pattern} == {symptom for symptom, _ in EXCERPTS}


def test_a_calm_log_shows_nothing() -> None:
    calm = (
        "INFO 11-24 02:04:59 [gpu_worker.py:440] Available KV cache memory: 22.5 GiB\n"  # eugr/spark-vllm-docker#396
        "INFO: Application startup complete.\nLoading weights took 549.60 seconds\n"
    )
    assert recognised(calm.splitlines(), "spark") == []


def test_every_row_is_complete_and_says_how_well_it_is_attested() -> None:
    for s in SYMPTOMS:
        assert all((s.symptom, s.cause, s.check, s.fix)), s
        assert s.reports in (ONE, SEVERAL, MAINTAINER)
        assert s.source.startswith("https://github.com/")


def test_every_area_can_be_read_and_its_patterns_be_searched_for() -> None:
    for area in (*ENGINES, "engine", "docker", "spark", "install"):
        found = rows(area)
        assert found, area
        for row in found:
            assert row.cause, row
            assert row.fix, row
            re.compile(row.pattern)

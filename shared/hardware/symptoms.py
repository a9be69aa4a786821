"""What goes wrong with engines on a DGX Spark and in containers: how it shows, why, and what helps.

Collected from published reports, read in November 2026; none was verified on hardware by us. `reports` says how well
a row is attested. The launcher looks for `pattern` in an engine's log, `make doctor ARGS=--symptoms` prints all rows.
"""

import re
from dataclasses import dataclass

ONE, SEVERAL, MAINTAINER = "one owner's report", "several", "maintainer"


@dataclass(frozen=True)
class Symptom:
    """One way in which things go wrong."""

    pattern: str  # of a line in a log; "" if it leaves none
    symptom: str
    cause: str
    check: str
    fix: str
    reports: str  # ONE | SEVERAL | MAINTAINER (a maintainer's or vendor's word)
    source: str


# Of two rows for one line the more special comes first.
SYMPTOMS = (
    Symptom(
        "",
        "The machine answers ping, but ssh hangs",
        "unified memory is exhausted, which ends in a freeze or a reset and not in an error",
        "the last samples of MemAvailable before the stall",
        "switch it off and on; then fewer sequences (--max-num-seqs), fewer tokens a batch "
        "(--max-num-batched-tokens 4096), and a capped allocator",
        SEVERAL,
        "https://github.com/vllm-project/vllm/issues/46307",
    ),
    Symptom(
        r"Free memory on device .* is less than desired GPU memory utilization \(0\.92,",
        "vLLM refuses to start for too little free memory, with or without a given size of the KV cache",
        "--gpu-memory-utilization is still at its default, 0.92, which is checked even if the KV cache's size is given",
        "the command line: is there a --gpu-memory-utilization?",
        "add a small one beside --kv-cache-memory-bytes, such as --gpu-memory-utilization 0.3",
        SEVERAL,
        "https://github.com/llamastash/llamastash/issues/80",
    ),
    Symptom(
        r"Free memory on device .* is less than desired GPU memory utilization",
        "vLLM refuses to start for too little free memory",
        "its share of the *whole* memory is more than what is free; older versions count file cache as used",
        "MemAvailable in /proc/meminfo; docker ps; make doctor (GPU in use)",
        "stop the other engine, or lower --gpu-memory-utilization; if most of it is file cache: "
        "sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'",
        SEVERAL,
        "https://github.com/vllm-project/vllm/issues/48140",
    ),
    Symptom(
        r"Available KV cache memory: -|No available memory for the cache blocks",
        "vLLM finds next to no memory, or less than none, for the KV cache",
        "file cache or a compiler's memory was counted as the engine's own while it measured itself",
        "whether the load was cold: a second start often passes",
        "give the KV cache's size: --kv-cache-memory-bytes 4G",
        MAINTAINER,
        "https://github.com/NVIDIA/xr-ai/pull/462",
    ),
    Symptom(
        r"NV_ERR_NO_MEMORY",
        "Memory falls by tens of GiB within seconds, right after the weights are loaded",
        "the allocator takes far more than it keeps; the driver fails while the kernel still reports free memory",
        "sudo dmesg | grep NV_ERR_NO_MEMORY, and MemAvailable sampled every second",
        "PYTORCH_ALLOC_CONF=per_process_memory_fraction:0.72 in the engine's environment; end an engine that falls "
        "below 16 GiB available while it loads",
        ONE,
        "https://github.com/vllm-project/vllm/issues/56824",
    ),
    Symptom(
        r"ibv_reg_mr_iova2 failed with error Cannot allocate memory",
        "Two Sparks can't be joined: NCCL fails to register memory",
        "kernel 7.0.0-1019 reserves 9.3 GiB for Kexec HandOver, and pinning fails",
        "/proc/meminfo: CmaFree above CmaTotal; make doctor (kernel)",
        "sudo apt install nvidia-spark-grub-kho && sudo reboot (it adds kho=off), or start kernel 6.17.0-1032",
        SEVERAL,
        "https://github.com/MiaAI-Lab/DeepSeek-v4.1-Flash-DGX-Sparks/issues/14",
    ),
    Symptom(
        r"cudaErrorUnsupportedPtxVersion|PTX was compiled with an unsupported toolchain",
        "CUDA refuses PTX of an unsupported version",
        "the image is built for a newer CUDA than the driver's, and its entrypoint, which bridges that, was replaced",
        "docker inspect --format '{{.Config.Entrypoint}}' IMAGE, against what is run",
        "leave --entrypoint out; or update the driver",
        ONE,
        "https://github.com/vllm-project/vllm/issues/31700 (the message; the entrypoint: one owner of a Spark)",
    ),
    Symptom(
        r"Value 'sm_121a' is not defined for option 'gpu-name'",
        "Triton's compiler doesn't know the GPU",
        "the ptxas that Triton brings is older than the GB10",
        "/usr/local/cuda/bin/ptxas --version: is it of CUDA 13?",
        "TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas in the engine's environment, or an image for CUDA 13",
        MAINTAINER,
        "https://github.com/triton-lang/triton/issues/8539",
    ),
    Symptom(
        r"no kernel image is available for execution on the device",
        "CUDA finds no kernel for the GPU",
        "the program was built without code for this GPU's compute capability (12.1 on a GB10)",
        "cuobjdump --list-elf on the library that fails",
        "an image or wheel for CUDA 13 (cu130)",
        MAINTAINER,
        "https://github.com/pytorch/pytorch/issues/31285",
    ),
    Symptom(
        r"invoking the NVIDIA Container Runtime Hook directly",
        "docker refuses --gpus",
        "the NVIDIA Container Toolkit uses CDI, which --gpus alone doesn't reach",
        "ls /var/run/cdi /etc/cdi",
        "--runtime nvidia -e NVIDIA_VISIBLE_DEVICES=all instead of --gpus all",
        MAINTAINER,
        "https://github.com/NVIDIA/nvidia-container-toolkit (README of nvidia-container-runtime)",
    ),
    Symptom(
        r"could not select device driver .* with capabilities: \[\[gpu\]\]|[Uu]nknown (or invalid )?runtime"
        r"( name:| specified) nvidia",
        "docker can't give the GPU to a container",
        "the NVIDIA Container Toolkit is missing, or docker doesn't know its runtime",
        "docker info: is nvidia among the runtimes, or nvidia.com/gpu among the devices?",
        "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
        MAINTAINER,
        "https://github.com/NVIDIA/nvidia-docker/issues/1642",
    ),
    Symptom(
        r"permission denied while trying to connect to the [Dd]ocker",
        "docker works with sudo only",
        "this user is not in the group docker, or logged in before it was",
        "id -nG: is docker among the groups?",
        "sudo usermod -aG docker $USER, then log out and in, and start Jupyter again",
        SEVERAL,
        "https://github.com/chrisjbawden/cockpit-dockermanager/issues/37",
    ),
    Symptom(
        "",
        "The engine is healthy and answers nonsense",
        "a stale image (lmsysorg/sglang:spark is SGLang 0.5.3) or kernels that are wrong on this GPU",
        "a question with a known answer, before anything is measured",
        "a newer image",
        ONE,
        "https://github.com/sgl-project/sglang/issues/12134",
    ),
    Symptom(
        "",
        "Ollama is several times slower than expected",
        "it runs on the processor: its CUDA library was not found, or OLLAMA_LLM_LIBRARY names one that isn't there",
        "ollama ps must say 100% GPU",
        "unset OLLAMA_LLM_LIBRARY, or: export OLLAMA_LLM_LIBRARY=cuda_v13",
        ONE,
        "https://github.com/NVIDIA/dgx-spark-playbooks/pull/23",
    ),
)


CAUSES = tuple((row.pattern, row.cause, row.fix) for row in SYMPTOMS if row.pattern)  # as an engine's own


def known(log_text: str) -> list[Symptom]:
    """The symptoms that this log shows, in the table's order."""
    return [s for s in SYMPTOMS if s.pattern and re.search(s.pattern, log_text)]

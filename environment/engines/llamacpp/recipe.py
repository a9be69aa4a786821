"""llama.cpp from source: llama-server, llama-bench, llama-quantize, and the Python binding.

The source distribution of llama-cpp-python on PyPI contains all of llama.cpp with its tools. The binding is packed as
a wheel for .venv without another compilation, because it loads the same libraries.
"""

import json
import os
import shutil
import tarfile
from pathlib import Path

from environment.install_steps import UV, Job, Step
from environment.prove_engine import prove
from shared import paths
from shared.hardware import processor

VERSION = "0.3.36"
TOOLS = ("llama-server", "llama-bench", "llama-quantize")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "ON",  # the Python binding loads them
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",  # programs find the libraries in their own folder, so the folder can be moved
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",  # it would be downloaded from a hub
    "LLAMA_OPENSSL": "OFF",  # serves on 127.0.0.1 only
    # Quantized weights would use AMX where the processor has it. With GCC 12 the first product then ends the program:
    # its _tile_loadconfig reads 8 of the 64 bytes, so the compiler drops the others (llama.cpp, pull request 26954).
    "CMAKE_C_FLAGS": "-U__AMX_INT8__",
    "CMAKE_CXX_FLAGS": "-U__AMX_INT8__",
}


def build(job: Job) -> None:
    work = job.dest / "work"
    source, tree = work / f"llama_cpp_python-{VERSION}", work / "build"
    tools = (paths.cache() / "build-tools" / "venv" / "bin").resolve()
    path = f"{tools}:{os.environ['PATH']}"
    if not (source / ".whole").exists():
        shutil.rmtree(source, ignore_errors=True)
        archive = job.download("environment/engines/llamacpp/source.lock", work, str(tools / "python"), PATH=path)
        job.doing = "unpacking"
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        (source / ".whole").touch()
    job.run(
        "configuring",
        [
            str(tools / "cmake"),
            "-S",
            str(source / "vendor/llama.cpp"),
            "-B",
            str(tree),
            "-G",
            "Ninja",
            *(f"-D{k}={v}" for k, v in OPTIONS.items()),
        ],
        PATH=path,
    )
    job.run("compiling", [str(tools / "cmake"), "--build", str(tree), "--target", *TOOLS], PATH=path)
    job.run(
        "packing the Python binding",
        [
            UV,
            "build",
            "--wheel",
            "--no-build-isolation",
            "--python",
            str(tools / "python"),
            "--out-dir",
            str(job.dest / "binding"),
            str(source),
        ],
        PATH=path,
        CMAKE_ARGS="-DLLAMA_BUILD=OFF",
    )
    bin_dir = job.dest / "bin"
    shutil.rmtree(bin_dir, ignore_errors=True)
    bin_dir.mkdir()
    for file in sorted((tree / "bin").iterdir()):
        if file.name in TOOLS or ".so" in file.name:
            shutil.copy2(file, bin_dir / file.name, follow_symlinks=False)
    shutil.rmtree(work)
    (job.dest / "installed.json").write_text(json.dumps({"engine": "llamacpp", "version": build_number(bin_dir)}))


def build_number(bin_dir: Path) -> str:
    """The version of the source distribution, which does not contain llama.cpp's own build number."""
    missing = [tool for tool in TOOLS if not (bin_dir / tool).exists()]
    if missing:
        raise RuntimeError(f"the build did not produce {', '.join(missing)}")
    return f"llama-cpp-python {VERSION}"


STEP = Step(
    name="engines/llamacpp",
    title=f"llama.cpp ({VERSION})",
    inputs=(
        "environment/engines/llamacpp/recipe.py",
        "environment/engines/llamacpp/source.lock",
        "environment/build-tools.lock",
    ),
    needs_gib=1.5,
    build=build,
    verify=lambda job: prove(job, "llamacpp", "Q8_0", "Q4_0"),
    after=("build-tools",),
    verify_after=("torch", "models/smollm2-135m-instruct", "models/smollm2-135m-instruct-gguf"),
    nice=19,
    facts=(processor.cpu_flags(),),  # the compiler builds for this processor
)

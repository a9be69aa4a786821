"""Weights are downloaded from a hub completely and once, or an error gives the reason. The tests run a real server."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from shared import LabError
from shared.models.catalogue import Source
from shared.models.hub import fetch, home, inside
from tests.helpers.hub import REVISION, Hub, serving

WEIGHTS = bytes(range(256)) * 8192
SOURCE = Source("labs/model", REVISION, "", len(WEIGHTS), "mit", False, "", "2026-11-24", "made up for this test")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text("{}")
    (folder / "model-BF16.gguf").write_bytes(WEIGHTS[::-1])
    (folder / "picture.png").write_bytes(b"not wanted")
    with serving(Hub({"labs/model": folder, "labs/gated": folder}, gated={"labs/gated"})) as hub:
        yield hub


@pytest.fixture
def at(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that points huggingface_hub, which read its settings at import, to an address."""
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def point(url: str) -> None:
        if not url:  # no network: fails at once, instead of after half a minute of retries
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    point(hub.url)
    return point


def test_weights_are_fetched_once_and_seen_by_a_container(hub: Hub, at: Callable[[str], None]) -> None:
    folder = fetch(SOURCE)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "picture.png").exists()
    assert inside(folder) == f"/root/.cache/huggingface/hub/models--labs--model/snapshots/{REVISION}"
    asked = len(hub.asked)
    at("")  # pinned and in the cache: no further request
    assert fetch(SOURCE) == folder
    assert len(hub.asked) == asked


def test_a_gguf_is_one_file(at: Callable[[str], None]) -> None:
    file = fetch(replace(SOURCE, file="model-BF16.gguf"))
    assert file.read_bytes() == WEIGHTS[::-1]
    assert inside(file).endswith(f"{REVISION}/model-BF16.gguf")
    assert not (file.parent / "model.safetensors").exists()


def test_a_connection_that_breaks_off_costs_nothing(hub: Hub, at: Callable[[str], None]) -> None:
    hub.tear.add("labs/model")
    assert (fetch(SOURCE) / "model.safetensors").read_bytes() == WEIGHTS
    assert sum(method == "GET" and path.endswith("model.safetensors") for method, path, _ in hub.asked) == 2


def test_half_a_model_is_not_taken_for_whole(hub: Hub, at: Callable[[str], None], tmp_path: Path) -> None:
    """A download that ended between two files leaves a folder that looks complete."""
    folder = hub.repositories["labs/model"]
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(WEIGHTS)
    whole = fetch(SOURCE)
    (whole / "model-00002-of-00002.safetensors").unlink()
    assert (fetch(SOURCE) / "model-00002-of-00002.safetensors").read_bytes() == WEIGHTS
    (whole / "model-00002-of-00002.safetensors").unlink()
    at("")
    with pytest.raises(LabError, match=r"could not be downloaded completely"):
        fetch(SOURCE)


def test_a_gated_model_names_its_page_and_its_free_twin(at: Callable[[str], None]) -> None:
    with pytest.raises(LabError, match=r"labs/gated is gated.*\nFix: accept the licence on https://.*/labs/gated"):
        fetch(replace(SOURCE, repository="labs/gated"))
    with pytest.raises(
        LabError, match=r"or take labs/model, which .* without a gate: unset HF_TOKEN; .*hf auth logout"
    ):
        fetch(replace(SOURCE, repository="labs/gated", ungated="labs/model"))


def test_a_wrong_name_and_no_network_are_told_apart(at: Callable[[str], None]) -> None:
    with pytest.raises(LabError, match="The hub has no labs/nothing, or it is private"):
        fetch(replace(SOURCE, repository="labs/nothing"))
    at("")
    with pytest.raises(LabError, match=r"labs/model could not be downloaded completely: .*\nFix: check the network"):
        fetch(replace(SOURCE, revision="b" * 40))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (RuntimeError("Data processing error: CAS\nat 3"), "Data processing error: CAS"),
    ],
)
def test_an_error_of_a_library_below_is_told_with_its_fix(
    at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    import huggingface_hub

    def fails(*_: object, local_files_only: bool, **__: object) -> str:
        raise LocalEntryNotFoundError("not here") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(LabError, match=f"could not be downloaded completely: {said}\nFix: check the network"):
        fetch(SOURCE)


def test_what_an_interrupted_download_left_needs_no_room(
    at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(WEIGHTS) // 2))
    with pytest.raises(LabError, match="GiB of disk space"):
        fetch(SOURCE)
    blobs = home() / "hub" / "models--labs--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0.incomplete").write_bytes(WEIGHTS[: len(WEIGHTS) * 2 // 3])
    assert (fetch(SOURCE) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_full_disk_is_noticed_before_anything_is_fetched(
    hub: Hub, at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        LabError, match=r"needs 931322\.6 GiB of disk space, but only .* GiB are free in .*\nFix: free some space"
    ):
        fetch(replace(SOURCE, bytes=10**15))
    assert hub.asked == []
    assert not home().exists()

"""The list of container images: every row is pinned, names its source, and marks what was not checked."""

import datetime
import re
import tomllib
from typing import Any

import pytest

from shared import paths

FILE = paths.REPO / "environment" / "containers" / "images.toml"
ROWS: dict[str, dict[str, Any]] = tomllib.loads(FILE.read_text())
FIELDS = {
    "engine": str,
    "image": str,
    "tag": str,
    "digest": str,
    "platforms": list,
    "arm64_checked": str,
    "entrypoint": list,
    "port": int,
    "cuda": str,
    "source": str,
    "source_date": str,
    "note": str,
}
ENGINES = ("vllm", "vllm-nvidia", "sglang", "trtllm", "llamacpp", "ollama")
BESIDE = ("open-webui", "prometheus", "grafana", "python")
OUTLINE = ("pytorch", "triton-trtllm")
MOVING = re.compile(r"(^|[-_.])(latest|main|master|nightly|dev|edge|stable)($|[-_.])")
WAY_OUT = re.compile(r"\binstead\b")


def faults(row: dict[str, Any]) -> list[str]:
    """The faults of one table; empty if there are none."""
    wrong = [
        f"{name} is missing or no {kind.__name__}"
        for name, kind in FIELDS.items()
        if not isinstance(row.get(name), kind)
    ]
    wrong += [f"{name} is unknown" for name in row.keys() - FIELDS.keys()]
    if wrong:
        return wrong
    wrong += [f"{name} is empty" for name in ("engine", "image", "tag", "source", "note") if not row[name].strip()]
    if re.search(r"[:@]", row["image"]):
        wrong.append("the tag or digest belongs into its own field")
    if MOVING.search(row["tag"]) or not re.search(r"\d", row["tag"]):
        wrong.append("the tag moves")
    if row["digest"] and not re.fullmatch(r"sha256:[0-9a-f]{64}", row["digest"]):
        wrong.append("the digest is none")
    if "linux/arm64" not in row["platforms"] and not WAY_OUT.search(row["note"]):
        wrong.append("not for arm64, and the note doesn't say what to use instead")
    checked = re.fullmatch(r"(\d{4}-\d\d-\d\d), (manifest|published page|not checked)", row["arm64_checked"])
    if not checked:
        wrong.append("arm64_checked doesn't say when and how")
    elif (checked[2] == "not checked") != (not row["platforms"]):
        wrong.append("platforms without a look, or a look without platforms")
    if not re.fullmatch(r"https://[\w.-]+/\S+", row["source"]):
        wrong.append("the source is no address")
    for date in (row["source_date"], checked[1] if checked else ""):
        if not past(date):
            wrong.append(f"{date!r} is no day or month that has been")
    return wrong


def past(date: str) -> bool:
    try:
        day = datetime.date.fromisoformat(date if date.count("-") == 2 else f"{date}-01")
    except ValueError:
        return False
    return datetime.date(2025, 10, 1) <= day <= datetime.date.today()  # DGX Spark was sold from October 2025


def test_the_images_of_the_labs_are_there() -> None:
    assert list(ROWS) == [*ENGINES, *BESIDE, *OUTLINE]


@pytest.mark.parametrize("name", ROWS)
def test_an_image_is_pinned_and_sourced(name: str) -> None:
    assert faults(ROWS[name]) == []


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_of_the_labs_has_an_arm64_image_and_a_port(name: str) -> None:
    assert "linux/arm64" in ROWS[name]["platforms"]
    assert 1024 < ROWS[name]["port"] < 65536


def test_no_two_names_mean_the_same_image() -> None:
    references = [f"{row['image']}:{row['tag']}" for row in ROWS.values()]
    digests = [row["digest"] for row in ROWS.values() if row["digest"]]
    assert len(set(references)) == len(references)
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("spoiled", "fault"),
    [
        ({"tag": "latest"}, "the tag moves"),
        ({"tag": "latest-cu130"}, "the tag moves"),
        ({"tag": "main"}, "the tag moves"),
        ({"tag": "spark"}, "the tag moves"),
        ({"tag": ""}, "tag is empty"),
        ({"image": "vllm/vllm-openai:v0.31.0"}, "its own field"),
        ({"digest": "sha256:c1c9f6fd"}, "digest"),
        ({"digest": "c1c9f6fd5c109ba7f0546a59f5b2f15fb87f64c77782e90a27b648b42a8e67c3"}, "digest"),
        ({"platforms": ["linux/amd64"], "note": "Fast."}, "not for arm64"),
        ({"platforms": [], "note": "Use another instead."}, "without platforms"),
        ({"arm64_checked": "yes"}, "arm64_checked"),
        ({"arm64_checked": "2026-11-24, not checked"}, "without a look"),
        ({"source": ""}, "source is empty"),
        ({"source": "NVIDIA"}, "no address"),
        ({"source_date": ""}, "no day or month"),
        ({"source_date": "2026-13"}, "no day or month"),
        ({"source_date": "2999-01-01"}, "no day or month"),
        ({"note": " "}, "note is empty"),
        ({"port": "8000"}, "port is missing or no int"),
        ({"size": 1}, "size is unknown"),
    ],
    ids=str,
)
def test_a_spoiled_table_is_caught(spoiled: dict[str, Any], fault: str) -> None:
    assert fault in "; ".join(faults(ROWS["vllm"] | spoiled))

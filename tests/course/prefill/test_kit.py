"""What the lab compiles and compares on a processor, and on a GPU."""

import pytest

from shared import hardware, models
from shared.course.prefill.kit import Kit
from shared.hardware.processor import torch_dtype


@pytest.fixture
def kit() -> Kit:
    return Kit(models.small(), hardware.detect())


def on(kit: Kit, device: str) -> Kit:
    vars(kit)["device"] = device
    return kit


def test_on_a_processor_both_compilers_are_compared_with_torch(kit: Kit) -> None:
    assert on(kit, "cpu").comparable == ("openvino", "aoti")
    assert {kit.recipe(name).precision for name in kit.comparable} == {kit.dtype} == {torch_dtype()}


def test_on_a_gpu_openvino_computes_elsewhere_and_in_the_processors_format(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.course.prefill.kit.torch_dtype", lambda: "float32")
    assert on(kit, "cuda").comparable == ("aoti",)
    assert (kit.recipe("aoti").precision, kit.recipe("openvino", 64).precision) == ("bfloat16", "float32")


def test_the_ceilings_are_those_of_the_device_that_computes(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr("shared.metrics.roofline.measure", lambda *given: asked.append(given))
    on(kit, "cuda").ceilings(1e6)
    assert asked == [(1e6, kit.machine.cores, "cuda")]

"""The cell that measures the machine: a second run of the notebook draws its limits from the same figures."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shared import hardware
from shared.course import checks, labs, registry
from shared.metrics import roofline
from shared.metrics.roofline import Ceilings, Work
from shared.models.llama import Llama


def test_the_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [cell] = [c for c in checks.notebook(registry.find_lab("3.3.2"))["cells"] if c["id"] == "predict-growth"]
    measured: list[float] = []

    def measure(size: float, cores: int) -> Ceilings:
        measured.append(size)
        return Ceilings(20.0 + len(measured), 0.4, "measured")

    monkeypatch.setattr(roofline, "measure", measure)
    monkeypatch.setattr(Llama, "load", lambda *_: None)
    lab = labs.open("3.3.2")
    names: dict[str, Any] = {
        "__name__": "__main__", "lab": lab, "hardware": hardware, "torch": torch, "machine": hardware.detect(),
        "small": SimpleNamespace(weights=lambda form: None),
        "mini_load": SimpleNamespace(decode_work=lambda llama, users, tokens: Work(3e8, 3e8 * users, users)),
    }  # fmt: skip
    said = []
    for _ in range(2):
        exec(cell["source"], names)
        said.append(capsys.readouterr().out.splitlines()[-3:])
    assert said[0] == said[1]
    assert said[0][0] == "it reads 21.0 GB/s and multiplies 0.400 TFLOP/s"
    assert measured == [3e8]
    assert lab.values("predict/growth")["bandwidth_gb_s"] == 21.0

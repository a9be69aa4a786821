"""The overload run: what its figures are made of."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError
from shared.course.gateway import overload
from tests.helpers.truth import TruthEngine


def test_a_capacity_is_made_of_answers_and_not_of_refusals(tmp_path: Path) -> None:
    """A refusal takes a millisecond. Ten times such a capacity would be thousands of requests a second."""
    with TruthEngine.start(tmp_path / "log") as engine:
        gateway: Any = SimpleNamespace(url=engine.url)
        asked: Any = SimpleNamespace(served_name="truth", spec=SimpleNamespace(exact_length={}))
        took_s = asyncio.run(overload.closed(gateway, asked, 2))
        assert len(took_s) == 2
        asked.spec.exact_length = {"truth": {"fault": "503"}}
        with pytest.raises(LabError, match="A request of the capacity measurement failed: HTTP 503"):
            asyncio.run(overload.closed(gateway, asked, 2))

"""The overload run: what its figures are made of."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError
from shared.course.gateway import overload
from shared.engines.http import counters
from shared.launch import launch
from shared.models import ModelChoice
from tests.helpers.processes import eventually
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


@pytest.mark.programs
def test_an_engine_with_a_backlog_is_started_again_where_it_was(
    model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gateway in front of it keeps its address."""
    asked = {
        "model": model.name,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 900,
        "ignore_eos": True,
    }
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with (
        launch("llamacpp", model, {"-np": 1, "-c": 2048}, cores=1, quiet=True) as engine,
        contextlib.ExitStack() as left,
    ):
        assert overload.unburdened(engine) is engine
        for _ in range(4):
            client = left.enter_context(socket.create_connection(("127.0.0.1", engine.port)))
            client.sendall(head + body)
        assert eventually(lambda: counters(engine).get("waiting") == 3)
        with overload.unburdened(engine) as again:
            assert (again.port, again.flags, again.cores) == (engine.port, engine.flags, engine.cores)
            assert again.alive
            assert not engine.alive
            found = counters(again)
            assert found["running"] == found["waiting"] == 0
            again.end()
            with overload.unburdened(again) as third:
                assert third.alive
    printed = capsys.readouterr().out
    assert "The engine still has 4 requests whose clients have left" in printed
    assert "The engine does not report its counters" in printed

"""The tests of this folder notice a gateway that breaks a rule: each mutant is the gateway with one wrong function."""

import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared import paths
from shared.course.starter import with_function
from tests.gateway import test_byte_identity as identity
from tests.gateway import test_client_faults as clients
from tests.gateway import test_engine_faults as engines
from tests.gateway import test_openai_surface as surface
from tests.helpers import gateway as helper
from tests.helpers.gateway import MANY, SHORT, running, write_keys
from tests.helpers.truth import TruthEngine


@dataclass
class Scene:
    """What a test of this folder needs, with the mutant as its gateway."""

    one: TruthEngine
    two: TruthEngine
    folder: Path

    def single(self, test: Callable[[helper.Gateway], None]) -> None:
        with running(self.folder, {"one": self.one.url}, seats=64, **SHORT, **MANY) as gateway:
            test(gateway)

    def pair(self, test: Callable[[helper.Gateway], None]) -> None:
        with running(self.folder, {"one": self.one.url, "two": self.two.url}, **SHORT, **MANY) as gateway:
            test(gateway)

    def guarded(self, test: Callable[[helper.Gateway], None]) -> None:
        slow = {"limits": {"requests_per_minute": 20, "burst": 1}}
        file = write_keys(self.folder / "keys.toml", {"anna": {}, "slow": slow})
        with running(self.folder, {"one": self.one.url}, **MANY | {"keys_file": str(file)}) as gateway:
            test(gateway)

    def slow_reader(self) -> None:
        fountain = clients.Fountain()
        try:
            clients.test_a_slow_reader_slows_the_engine_down_and_costs_no_memory(fountain, self.folder)
        finally:
            fountain.door.close()

    def leaving_client(self) -> None:
        fountain = clients.Fountain()
        try:
            clients.test_a_client_that_leaves_in_the_middle_ends_the_engines_work(fountain, self.folder)
        finally:
            fountain.door.close()


PASS_ON = "async def pass_on(block, read, send, events, arrived_s, first_token, between):\n"
ASK = "async def ask(session, url, data, request_id, connect_s, first_byte_s):\n"

# What is wrong: file, function, its wrong source, and the test that must fail.
MUTANTS: dict[str, tuple[str, str, str, Callable[[Scene], None]]] = {
    "the whole stream is kept until its end": (
        "relay.py", "pass_on", PASS_ON + """
            out = b""
            while block:
                events.feed(block)
                out += events.for_client(block)
                block = await read()
            await send(out)
        """,
        lambda s: s.single(lambda g: identity.test_each_event_is_passed_on_before_the_engine_sends_the_next(g, s.one)),
    ),
    "blocks are read while the client does not": (
        "relay.py", "pass_on", PASS_ON + """
            sends = []
            while block:
                events.feed(block)
                sends.append(asyncio.ensure_future(send(events.for_client(block))))
                block = await read()
            await asyncio.gather(*sends)
        """,
        lambda s: s.slow_reader(),
    ),
    "a client that leaves is not noticed": (
        "relay.py", "unless_client_leaves", """
        async def unless_client_leaves(work, receive):
            await work
            return True
        """,
        lambda s: s.leaving_client(),
    ),
    "another engine is asked after the first byte": (
        "relay.py", "try_engines", """
        async def try_engines(attempt, has_begun, deadline_s):
            tried = frozenset()
            while True:
                try:
                    return await attempt(tried)
                except EngineFailed as e:
                    tried |= {e.engine}
        """,
        lambda s: s.pair(lambda g: engines.test_no_other_engine_is_asked_after_the_first_byte(g, s.one, s.two, "cut")),
    ),
    "everything waits for an engine": (
        "relay.py", "ask", ASK + """
            import httpx
            from types import SimpleNamespace
            got = httpx.post(url, content=data, headers={"content-type": "application/json"}, trust_env=False)
            async def nothing():
                return b""
            content = SimpleNamespace(readany=nothing)
            answer = SimpleNamespace(status=got.status_code, headers=got.headers, content=content, close=lambda: None)
            return answer, got.content
        """,
        lambda s: s.single(engines.test_a_slow_engine_holds_nobody_up),
    ),
    "a chunk counts as a token": (
        "metrics.py", "Events.feed", """
        def feed(self, block):
            data = self.rest + block
            end = max(data.rfind(b"\\n\\n") + 2, data.rfind(b"\\n\\r\\n") + 3)
            end = end if end > 3 else 0
            self.whole, self.rest = data[:end], data[end:]
            for event in EVENT.findall(self.whole):
                if data_of(event) == b"[DONE]":
                    self.done = True
                else:
                    self.note(data_of(event))
                    self.chunks = getattr(self, "chunks", -1) + 1
                    self.usage = {"prompt_tokens": 5, "completion_tokens": self.chunks}
            return self.whole
        """,
        lambda s: s.single(lambda g: identity.test_streams_are_the_engines_bytes_and_their_tokens_are_counted(g, 20)),
    ),
    "an event that comes in two blocks is lost": (
        "metrics.py", "Events.feed", """
        def feed(self, block):
            self.whole = block
            for event in EVENT.findall(block):
                if data_of(event) == b"[DONE]":
                    self.done = True
                else:
                    self.note(data_of(event))
            return self.whole
        """,
        lambda s: s.single(identity.test_a_cut_at_every_byte_of_a_stream_changes_nothing),
    ),
    "nobody is limited": (
        "keys.py", "Bucket.take", """
        def take(self):
            return 0.0
        """,
        lambda s: s.guarded(surface.test_a_rate_limit_is_waited_for_as_long_as_it_states),
    ),
    "any key opens the door": (
        "keys.py", "find_key", """
        def find_key(token, keys, secret):
            return next(iter(keys), None)
        """,
        lambda s: s.guarded(
            surface.test_the_gateways_own_refusals_are_the_clients_exceptions_and_are_not_tried_again),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(
    name: str, one: TruthEngine, two: TruthEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, function, source, test = MUTANTS[name]
    tree = tmp_path / "tree"
    shutil.copytree(paths.REPO / "solutions" / "gateway", tree / "gateway")
    head, _, rest = source.partition("\n")
    wrong = head + "\n" + textwrap.indent(textwrap.dedent(rest), "    ") if head else textwrap.dedent(rest)
    text = with_function((tree / "gateway" / file).read_text(), function, wrong)
    assert text is not None, f"{file} has no {function} any more"
    (tree / "gateway" / file).write_text(text)
    monkeypatch.setattr(helper, "TREE", tree)
    with pytest.raises((AssertionError, pytest.fail.Exception, httpx.TransportError)):
        test(Scene(one, two, tmp_path))

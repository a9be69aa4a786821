"""Engines with a server on the prefill curve: timed from outside, with the same prompts as every other runner.

    with launch("llamacpp", model, servers.FLAGS["llamacpp"]) as engine:
        runner = servers.Served(engine)
        runner.time_s(ids)

A prompt is sent as token ids and the answer has one token, so prefill is nearly all of the work. Prefix caches are off,
and the counts in every answer are checked. Two clocks exist. The client's runs from sending the request to the end of
the answer, so it includes HTTP, scheduling and sampling. llama.cpp's own times its computation of the prompt alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.client import Trace, stream
from shared.load.loops import in_own_loop

# vLLM starts within half a minute, which the quick size doesn't have.
NAMES = {"quick": ("llamacpp",), "full": ("llamacpp", "vllm")}
OWN_CLOCK = ", own clock"  # the end of a line's name, if the server timed itself
ROOM = 4608  # tokens: the longest prompt of the curve, its answer, and some more
FLAGS: dict[str, dict[str, Any]] = {
    # Without --cache-ram 0 it would store each prompt, in the time of the next one.
    "llamacpp": {"-np": 1, "-c": ROOM, "--cache-ram": 0},
    "vllm": {
        "--max-num-seqs": 1, "--max-model-len": ROOM, "--enforce-eager": True, "--no-enable-prefix-caching": True,
    },
}  # fmt: skip


class Served:
    """A running engine as a runner of the curve. `own_ms`: its own clock's times by prompt length, if it has one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.own_ms: dict[int, list[float]] = defaultdict(list)

    def time_s(self, ids: Sequence[int], repeats: int = 1) -> list[float]:
        """The seconds from each request to the end of its answer, by the client's clock.

        Raises LabError if a request fails, or if the engine computed another number of prompt tokens.
        """
        return [self._ask(ids).e2e_ms / 1e3 for _ in range(repeats)]

    def _ask(self, ids: Sequence[int]) -> Trace:
        body = {
            "model": self.engine.served_name, "prompt": list(ids), "max_tokens": 1, "temperature": 0,
            **self.engine.spec.exact_length,
        }  # fmt: skip
        trace: Trace = in_own_loop(stream(self.engine.url + "/v1/completions", body))
        title = self.engine.spec.title
        if trace.error:
            raise LabError(
                f"{title} didn't answer a prompt of {len(ids)} tokens: {trace.error}.", "print(engine.tail())"
            )
        if trace.input_tokens != len(ids) or trace.cached_tokens:
            raise LabError(
                f"{title} was sent {len(ids)} tokens; it counted {trace.input_tokens}, {trace.cached_tokens or 0} of "
                "them from a cache.",
                "start it with servers.FLAGS, which switch its prefix cache off",
            )
        if own := (trace.timings or {}).get("prompt_ms"):
            self.own_ms[len(ids)].append(float(own))
        return trace

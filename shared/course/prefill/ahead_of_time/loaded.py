"""An engine that runs: in a process of its own, or torch in this one.

    with loaded.load(engine, threads) as run:
        logits = run(ids)                  # [vocabulary]
        run.time_s(ids, repeats=5)         # seconds of each prefill, without the way between the processes

A process that serves an engine ends with the one that started it: its requests come from a pipe, which then closes.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from shared.course.prefill.ahead_of_time.build import Engine
from shared.course.prefill.ahead_of_time.loader_errors import explained
from shared.course.prefill.ahead_of_time.prefill_model import SHORTEST, PrefillModel
from shared.errors import LabError

PROGRAM = Path(__file__).with_name("run_engine.py")


class Loaded:
    """An engine in a process of its own. `load_s`: the seconds from its start until it could compute."""

    def __init__(self, engine: Engine, threads: int, profile: bool = False) -> None:
        self.engine = engine
        self.length: int | None = engine.manifest["made_of"]["recipe"]["length"]
        self._temporary = tempfile.TemporaryDirectory(prefix="labs-")  # AOTInductor's loader unpacks an engine there
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM, engine.folder, str(threads), *(["profile"] if profile else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": self._temporary.name, **preloaded(engine.manifest["made_of"]["device"])},
        )
        hello = self._answer()
        if "error" in hello:
            self.close()
            raise explained(engine, hello["error"])
        self.load_s: float = hello["load_s"]
        self.model_code: list[str] = hello["modules"]  # modules of the model's code that it has imported: none

    def __call__(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        logits: np.ndarray[Any, Any] = self._ask(ids, 1)[0]
        return logits

    def time_s(self, ids: Sequence[int], repeats: int = 1) -> list[float]:
        took_s: list[float] = self._ask(ids, repeats)[1]
        return took_s

    def nodes_s(self, ids: Sequence[int]) -> list[tuple[str, str, float]]:
        """Name, type and seconds of each kernel of one prefill, if it was loaded with `profile`."""
        found: list[tuple[str, str, float]] = self._ask(ids, 1)[2]
        return found

    def _ask(self, ids: Sequence[int], repeats: int) -> Any:
        assert self._process.stdin
        request = (*padded(ids, self.length), repeats)
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            raise self._ended() from None

    def _ended(self) -> LabError:
        assert self._process.stderr
        printed = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        self.close()
        return explained(self.engine, printed[-1] if printed else f"exit code {self._process.returncode}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._temporary.cleanup()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):  # a request that the process never read
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class InTorch:
    """The prefill in this process: eager, or compiled by torch.compile."""

    def __init__(self, prefill: PrefillModel, threads: int, compiled: bool = False) -> None:
        self._run, self._device = prefill, prefill.embedding.device
        if compiled:
            # Layer by layer, because all layers have the same code: torch compiles it once. The whole graph took 92 s
            # to compile instead of 23, and its prefills were as fast (two cores, Intel Xeon, measured 2026-11-27).
            for layer in prefill.layers:
                layer.compile(dynamic=True)
        self._threads = threads

    def __call__(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        tensors = [torch.from_numpy(one).to(self._device) for one in padded(ids, None)]
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.no_grad():
                logits: np.ndarray[Any, Any] = self._run(*tensors)[0].float().cpu().numpy()
        finally:
            torch.set_num_threads(before)
        return logits

    def time_s(self, ids: Sequence[int], repeats: int = 1) -> list[float]:
        took_s = []
        for _ in range(repeats):
            start = time.perf_counter()
            self(ids)  # fetching the logits waits until a GPU has computed them
            took_s.append(time.perf_counter() - start)
        return took_s


def preloaded(device: str) -> dict[str, str]:
    """The variable that makes a process load the compiler's C++ library before torch, for an engine on a GPU.

    Without it the engine crashed while it was loaded: it took `std::regex` from torch's CUDA libraries, which hold that
    of another C++ library (NVIDIA H100, torch 2.11, gcc 13.3, measured 2026-11-26).
    """
    if device == "cpu":
        return {}
    found = subprocess.run(["c++", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True, check=True)
    return {"LD_PRELOAD": found.stdout.strip()}


def padded(ids: Sequence[int], length: int | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(ids [1, T], the place of the last real one [1]) for an engine of this length, or of any length (None).

    Raises LabError for a prompt that the engine can't take.
    """
    if len(ids) < SHORTEST:
        raise LabError(f"A prompt of {len(ids)} tokens is too short.", f"give at least {SHORTEST} tokens")
    if length is not None and len(ids) > length:
        raise LabError(
            f"A prompt of {len(ids)} tokens doesn't fit an engine for {length}.",
            "choose an engine for longer prompts, or one for any length",
        )
    full = np.zeros((1, length or len(ids)), dtype=np.int64)
    full[0, : len(ids)] = ids
    return full, np.array([len(ids) - 1], dtype=np.int64)


def load(engine: Engine, threads: int, anyway: bool = False, profile: bool = False) -> Loaded:
    """Load a finished engine in a fresh process. Raises LabError if it is damaged or was built for another machine.

    `anyway` skips both checks, to see what the loader itself does with such a file. `profile` times every kernel of
    OpenVINO's engine (`nodes_s`), which slows it down a little.
    """
    if not anyway:
        engine.raise_if_damaged()
        engine.raise_if_foreign()
    return Loaded(engine, threads, profile)

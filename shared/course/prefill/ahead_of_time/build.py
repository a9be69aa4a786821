"""An engine on this disk: what decides its content, how it is built in stages, and the check before it is loaded.

    engine = kit.build(kit.recipe("openvino"))     # from the cache, or built now (shared.course.prefill.kit)
    engine.folder, engine.bytes, engine.build_s

The cache's folder is named by a hash of everything that decides the engine: weights, graph, compiler, its version and
options, and the processor. So a changed recipe is another folder, and no old engine is mistaken for it.

A build writes into a folder beside it, stage by stage. Each finished stage is noted with its files' hashes. A build
that was killed continues after its last intact stage. Only a finished folder gets the engine's name, so a half-written
engine is never loaded.
"""

import contextlib
import functools
import hashlib
import json
import numbers
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from shared import files, paths
from shared.errors import LabError
from shared.hardware.processor import cpu_flags, processor_name, torch_dtype
from shared.models.weights import sha256
from shared.results.provenance import source_sha256

COMPILERS = ("openvino", "aoti")
PRECISIONS = ("float32", "bfloat16", "int8")
ROOM = "course/prefill/ahead_of_time"
MANIFEST = "manifest.json"
FUSION = "fusion.json"  # operators before and kernels after the optimizer, by name; the kernels of attention


@dataclass(frozen=True)
class Recipe:
    """What the student decides about an engine. Raises LabError for a combination that can't be built."""

    compiler: str
    precision: str = torch_dtype()  # that the engine computes in
    length: int | None = None  # tokens of every prompt, shorter ones are padded; None: the engine takes any length

    def __post_init__(self) -> None:
        if self.compiler not in COMPILERS:
            raise LabError(f"There is no compiler {self.compiler!r}.", f"choose one of {', '.join(COMPILERS)}")
        if self.precision not in PRECISIONS:
            raise LabError(f"There is no precision {self.precision!r}.", f"choose one of {', '.join(PRECISIONS)}")
        if self.precision == "int8" and self.compiler != "openvino":
            raise LabError("INT8 is built by NNCF for OpenVINO only.", 'Recipe("openvino", "int8")')
        if self.length is not None:
            if not isinstance(self.length, numbers.Integral) or not 2 <= self.length <= 4096:
                fix = "choose a whole number from 2 to 4096, or None"
                raise LabError(f"An engine for {self.length!r} tokens can't be built.", fix)
            object.__setattr__(self, "length", int(self.length))  # NumPy's whole numbers can't be stored as JSON

    def __str__(self) -> str:
        return f"{self.compiler}-{self.precision}-{self.length or 'any'}"


@dataclass(frozen=True)
class Stage:
    """One step of a build: its name, the files that it leaves in the folder, and the function that makes them."""

    name: str
    leaves: tuple[str, ...]
    run: Callable[[Path], None]
    kept: bool = True  # whether the finished engine needs its files


@dataclass(frozen=True)
class Engine:
    """A finished engine."""

    folder: Path

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """What decides the engine (`made_of`), its files with sizes and hashes, and the seconds of each stage.

        Raises LabError if the folder holds no finished engine.
        """
        try:
            found: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text())
        except (OSError, ValueError):
            raise LabError(f"{paths.show(self.folder)} holds no finished engine.", "build it again") from None
        return found

    @property
    def bytes(self) -> int:
        return sum(int(noted["bytes"]) for noted in self.manifest["files"].values())

    @property
    def fusion(self) -> dict[str, dict[str, int]]:
        """Operators of the graph ("before") and kernels of the engine ("after"): how many of each name.

        "attention": the kernels that compute the graph's attention operators.
        """
        found: dict[str, dict[str, int]] = json.loads((self.folder / FUSION).read_text())
        return found

    @property
    def build_s(self) -> dict[str, float]:
        found: dict[str, float] = self.manifest["build_s"]
        return found

    def provenance(self) -> dict[str, Any]:
        """What a result records about the engine that it measured."""
        made_of = self.manifest["made_of"]
        return {"engine": made_of["compiler"], "engine_version": made_of["versions"], "recipe": made_of["recipe"]}

    def raise_if_damaged(self) -> None:
        """Raise LabError unless every file equals, byte for byte, the one that the build wrote."""
        for name, noted in self.manifest["files"].items():
            file = self.folder / name
            if not intact(file, noted):
                raise LabError(
                    f"{paths.show(file)} is damaged or missing: it is not the file that the build wrote.",
                    f"rm -r {paths.show(self.folder)}, then build it again",
                )

    def raise_if_foreign(self) -> None:
        """Raise LabError if it was built for another processor or by another version than this machine has."""
        made_of = self.manifest["made_of"]
        here = environment(made_of["compiler"], made_of["device"])
        wrong = [f"{what} {made_of[what]} (here: {here[what]})" for what in here if made_of[what] != here[what]]
        if wrong:
            raise LabError(
                f"The engine {self.folder.name} was built for another machine or version: {'; '.join(wrong)}. "
                "An engine is compiled for one processor and one runtime.",
                "build it again on this machine: kit.build(recipe)",
            )

    def remove(self) -> None:
        """Delete the engine's folder. The next `make` builds it again."""
        shutil.rmtree(self.folder, ignore_errors=True)


def environment(compiler: str, device: str = "cpu") -> dict[str, Any]:
    """What ties an engine to this machine: the compiler's version and the hardware that it compiles for."""
    from importlib.metadata import version

    packages = {"openvino": ("openvino", "nncf"), "aoti": ("torch",)}[compiler]
    here: dict[str, Any] = {"versions": {package: version(package) for package in packages}}
    if device == "cpu":
        return here | {"hardware": processor_name(), "instructions": cpu_flags()}
    import torch

    return here | {"hardware": torch.cuda.get_device_name(), "instructions": str(torch.cuda.get_device_capability())}


def ingredients(recipe: Recipe, weights_sha256: str, device: str = "cpu") -> dict[str, Any]:
    """Everything that decides the engine's content."""
    modules = tuple(f"{ROOM}/{name}" for name in ("prefill_model", f"{recipe.compiler}_compiler"))
    return {
        "compiler": recipe.compiler,
        "recipe": asdict(recipe),
        "weights_sha256": weights_sha256,
        "code_sha256": source_sha256(modules),
        "device": device,
        **environment(recipe.compiler, device),
    }


def folder() -> Path:
    """The folder of all engines (below `LABS_CACHE`)."""
    return paths.cache() / "prefill-engines"


def place(recipe: Recipe, made_of: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return folder() / f"{recipe}-{digest[:12]}"


def engines() -> list[Engine]:
    """The finished engines on this disk, largest first."""
    found = [Engine(manifest.parent) for manifest in folder().glob(f"*/{MANIFEST}")]
    return sorted(found, key=lambda engine: -engine.bytes)


def intact(file: Path, noted: Mapping[str, Any]) -> bool:
    return file.exists() and file.stat().st_size == noted["bytes"] and sha256(file) == noted["sha256"]


def note(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def run_stages(recipe: Recipe, made_of: Mapping[str, Any], stages: Sequence[Stage], needed_gib: float = 0.0) -> Engine:
    """The engine from the cache, or built by these stages; those that an interrupted build finished are skipped.

    Only one program builds an engine at a time: a second one waits and then finds it finished. Raises LabError if the
    disk is full, if less than `needed_gib` of memory is available, or if memory runs out in a stage.
    """
    target = place(recipe, made_of)
    building = target.with_name(f".{target.name}")
    waiting = f"Another program builds {target.name}; waiting for it."
    with files.exclusive(target.with_name(f".{target.name}.lock"), waiting, f"The engine {target.name}"):
        if (target / MANIFEST).exists():
            return Engine(target)
        shutil.rmtree(target, ignore_errors=True)  # without a manifest it is not an engine
        require_memory(target.name, needed_gib)
        building.mkdir(parents=True, exist_ok=True)
        done = finished_stages(building)
        for stage in stages:
            if stage.name in done:
                print(f"{target.name}: stage {stage.name} was finished by an earlier build")
                continue
            start = time.perf_counter()
            with files.writing(building / stage.leaves[0]), memory_may_run_out(f"{target.name}, stage {stage.name}"):
                stage.run(building)
            took_s = round(time.perf_counter() - start, 2)
            done[stage.name] = {"seconds": took_s, "files": {name: note(building / name) for name in stage.leaves}}
            files.write(building / "stages.json", json.dumps(done).encode())
            print(f"{target.name}: {stage.name} {took_s:.1f} s")
        kept = {name: done[s.name]["files"][name] for s in stages if s.kept for name in s.leaves}
        manifest = {
            "made_of": dict(made_of),
            "files": kept,
            "build_s": {stage.name: done[stage.name]["seconds"] for stage in stages},
        }
        for file in building.iterdir():
            if file.name not in kept:
                file.unlink() if file.is_file() else shutil.rmtree(file)
        files.write(building / MANIFEST, json.dumps(manifest, indent=1).encode())
        files.commit(building, target)
    return Engine(target)


MORE_MEMORY = "end other programs and the labs' engines (make down), then build again: finished stages are kept"


def require_memory(name: str, needed_gib: float) -> None:
    """Raise LabError if less memory is available. The system would else end this Python process during the build."""
    available_gib = psutil.virtual_memory().available / 2**30
    if available_gib < needed_gib:
        raise LabError(
            f"Building {name} takes about {needed_gib:.1f} GiB of memory, but {available_gib:.1f} are available.",
            MORE_MEMORY,
        )


# How compilers report it: torch on the processor and on a GPU, OpenVINO, the C++ compiler that Inductor calls.
RAN_OUT = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "Killed",
    "virtual memory exhausted",
)


@contextlib.contextmanager
def memory_may_run_out(where: str) -> Iterator[None]:
    """Turn an error by which a compiler reports a lack of memory into a LabError."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        if isinstance(e, RuntimeError) and not any(text in str(e) for text in RAN_OUT):
            raise
        first = " ".join(str(e).split())[:200]
        raise LabError(f"Memory ran out ({where}){f': {first}' if first else '.'}", MORE_MEMORY) from None


def finished_stages(building: Path) -> dict[str, Any]:
    """The stages that an interrupted build finished, up to the first one whose files are not intact."""
    try:
        noted: dict[str, Any] = json.loads((building / "stages.json").read_text())
    except (OSError, ValueError):
        return {}
    found: dict[str, Any] = {}
    for name, stage in noted.items():
        if not all(intact(building / file, one) for file, one in stage["files"].items()):
            break
        found[name] = stage
    return found

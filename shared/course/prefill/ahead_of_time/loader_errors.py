"""What a loader's error means: a runtime reports a foreign or torn engine in its own words."""

from shared.course.prefill.ahead_of_time.build import Engine
from shared.errors import LabError

# (text in the error, what it means); the first that fits counts.
MEANINGS = (
    ("No module named", "the runtime of this engine is not installed"),
    ("undefined symbol", "it was built by another version of torch: its library calls functions that this one lacks"),
    ("cannot open shared object", "its shared library needs another one that this machine lacks"),
    ("invalid ELF header", "its shared library was built for another kind of processor, or is damaged"),
    ("Illegal instruction", "it was compiled for instructions that this processor lacks"),
    ("exit code -4", "it was compiled for instructions that this processor lacks (illegal instruction)"),
    ("file in archive", "the file is damaged: part of the archive is missing"),
    ("PytorchStreamReader", "the file is damaged: part of the archive is missing"),
    ("central directory", "the file is damaged: part of the archive is missing"),
    ("Could not deserialize", "the file is damaged, or another version of OpenVINO wrote it"),
    ("blob", "the file is damaged, or another version of OpenVINO wrote it"),
    ("Exception from src/inference", "OpenVINO doesn't accept the file: it is damaged, or another version wrote it"),
    ("out of memory", "the weights don't fit into the memory that is free"),
    ("exit code -9", "the system killed the process: memory ran out"),
    ("exit code -11", "the file is damaged: the loader read beyond its end"),
)


def explained(engine: Engine, error: str) -> LabError:
    """The loader's error, what it means, and the fix."""
    meaning = next((text for part, text in MEANINGS if part.lower() in error.lower()), "the cause is not known")
    first = " ".join(error.split())[:300]
    return LabError(
        f"The engine {engine.folder.name} was not loaded: {meaning}. The loader's error: {first}",
        "build it again on this machine, or free memory if it ran out",
    )

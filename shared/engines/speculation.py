"""A draft made ready for one engine: found, compared with the model, and turned into flags.

Without a GPU the caller names the files of a draft. A container takes the draft that the catalogue names for its model
and fetches it from the hub.
"""

from pathlib import Path

from shared.engines import Draft, EngineSpec, Flags, draft_checks
from shared.engines.spec import DRAFTS, Speculation
from shared.errors import LabError
from shared.hardware.machine import Machine
from shared.models import hub
from shared.models.choice import ModelChoice
from shared.models.weights import sha256


def prepare(
    spec: EngineSpec, draft: Draft, model: ModelChoice, precision: str, flags: Flags, machine: Machine
) -> Speculation:
    """The draft as this engine is started with it.

    Raises LabError if the engine can't draft like this, or the draft is missing or belongs to another model, or the
    notebook's flags set what the draft sets.
    """
    way, capability = spec.way(machine.runner), DRAFTS[draft.kind]
    if why := spec.why_not(machine.runner, capability):
        raise LabError(f"{spec.title} can't draft by {capability} here: {why}.", "choose another draft or engine")
    assert way.speculate
    if draft.synthetic_length is not None and spec.name != "llamacpp":
        raise LabError(
            f"{spec.title} can't accept drafts at random here.", "leave out synthetic_length, or use llama.cpp"
        )
    if draft.kind == "ngram":
        found = Speculation(draft, way.speculate(draft, ""))
    elif machine.runner == "container":
        found = from_catalogue(spec, draft, model)
    else:
        found = from_files(spec, draft, model, precision)
    if twice := found.flags.keys() & flags.keys():
        raise LabError(
            f"The flags set {', '.join(sorted(twice))}, which the draft sets too.",
            "leave them out, or leave out the argument draft of launch()",
        )
    return found


def from_catalogue(spec: EngineSpec, draft: Draft, model: ModelChoice) -> Speculation:
    """The catalogue's draft for this model and engine, fetched from the hub."""
    assert spec.container.speculate
    key = f"{spec.name} {DRAFTS[draft.kind]}"
    if draft.path:
        raise LabError(
            f"{spec.title} runs in a container, which sees no file of {draft.path.name}.",
            "leave out the path: the container takes the draft that the catalogue names",
        )
    if key not in model.drafts:
        there = ", ".join(name for name in model.drafts if name.startswith(spec.name)) or "none"
        raise LabError(
            f"The catalogue names no {DRAFTS[draft.kind]} of {model.name} for {spec.title}; it names: {there}.",
            "choose another draft, or Draft('ngram', ...)",
        )
    source = model.drafts[key]
    files = hub.fetch(source)
    return Speculation(draft, spec.container.speculate(draft, hub.inside(files)), source.pinned, size(files))


def from_files(spec: EngineSpec, draft: Draft, model: ModelChoice, precision: str) -> Speculation:
    """The draft of the caller's files, compared with the model."""
    assert spec.native
    assert spec.native.speculate
    if draft.path is None or not draft.path.exists():
        what = "is given" if draft.path is None else f"is in {draft.path.name}"
        form = "its GGUF file" if spec.reads == "gguf" else "the folder with its config.json and weights"
        raise LabError(f"{spec.title} needs the files of its draft, but none {what}.", f"give the path of {form}")
    if draft.path.is_dir() == (spec.reads == "gguf"):
        raise LabError(
            f"{spec.title} reads {'a GGUF file' if spec.reads == 'gguf' else 'a folder'}, but {draft.path.name} is "
            f"{'a folder' if draft.path.is_dir() else 'a file'}.",
            "make its GGUF with head_gguf.path(model)" if spec.reads == "gguf" else "give the folder of the head",
        )
    weights = model.weights(spec.weights_form(model, precision))
    if fault := draft_checks.fault(draft.kind, draft.path, weights):
        raise LabError(f"The draft {draft.path.name} doesn't fit {model.name}: {fault}.", "take a draft of this model")
    stored = draft.path if draft.path.is_file() else next(iter(sorted(draft.path.glob("*.safetensors"))))
    return Speculation(draft, spec.native.speculate(draft, str(draft.path)), sha256(stored), size(draft.path))


def size(files: Path) -> int:
    """Bytes of a file, or of all weights in a folder."""
    return files.stat().st_size if files.is_file() else sum(one.stat().st_size for one in files.glob("*.safetensors"))

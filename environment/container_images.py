"""Fetch all container images, weights and drafts in advance, so that no notebook cell waits for them.

`make engines` does this after the steps of install.py, on a machine whose engines run in containers. The downloads are
tens of gigabytes. Images and weights that are already present are not fetched again. If the download for one engine
fails, the others still run.
"""

from shared import LabError, models
from shared.engines import ENGINES, EngineSpec
from shared.hardware import Machine
from shared.launch import containers
from shared.models import ModelChoice, catalogue, hub
from shared.models.catalogue import Source


def fetch_all(machine: Machine) -> int:
    """Fetch each engine's image, and the weights and drafts of all labs. Prints why one failed; returns how many."""
    model, failed = models.choose(machine), 0
    for spec in ENGINES.values():
        try:
            print(f"{spec.title}: {fetch(spec, model, machine)}", flush=True)
        except LabError as e:
            failed += 1
            print(f"{spec.title}: {e}", flush=True)
    for key, source in of_all_labs(machine).items():
        try:
            hub.fetch(source)
            print(f"{key}: {source.repository} is on this machine", flush=True)
        except LabError as e:
            failed += 1
            print(f"{key}: {e}", flush=True)
    return failed


def of_all_labs(machine: Machine) -> dict[str, Source]:
    """What some lab loads: weights in several precisions, and drafts, by their keys."""
    found: dict[str, Source] = {}
    for lab in catalogue.loads():
        model = models.choose(machine, lab)
        found |= {key: source for key, source in {**model.sources, **model.drafts}.items() if key in model.loads}
    return found


def fetch(spec: EngineSpec, model: ModelChoice, machine: Machine) -> str:
    """Fetch one engine's image and weights; returns a line that names both. Raises LabError."""
    image = containers.images()[spec.container.image]
    containers.ensure(image, machine.architecture)
    source = model.source(spec.reads, spec.container.precisions[0])
    hub.fetch(source)
    return f"{image.image}:{image.tag} and {source.repository} are on this machine"

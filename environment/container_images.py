"""On a machine whose engines run in containers: fetch every image and the weights, so that no cell waits for them.

`make engines` does it there, after the steps of install.py. It is tens of gigabytes; what is there is not fetched
again, and one engine's trouble doesn't keep the others from being fetched.
"""

from shared import LabError, models
from shared.engines import ENGINES, EngineSpec
from shared.hardware import Machine
from shared.launch import containers
from shared.models import ModelChoice, hub


def fetch_all(machine: Machine) -> int:
    """Every engine's image and first precision; returns how many engines are not ready, each with its reason said."""
    model, failed = models.choose(machine), 0
    for spec in ENGINES.values():
        try:
            print(f"{spec.title}: {fetch(spec, model, machine)}", flush=True)
        except LabError as e:
            failed += 1
            print(f"{spec.title}: {e}", flush=True)
    return failed


def fetch(spec: EngineSpec, model: ModelChoice, machine: Machine) -> str:
    """What is there now."""
    image = containers.images()[spec.container.image]
    containers.ensure(image, machine.architecture)
    source = model.source(spec.reads, spec.container.precisions[0])
    hub.fetch(source)
    return f"{image.image}:{image.tag} and {source.repository} are here"

"""The helper package of the inference engine labs.

Data flows one way, and a notebook touches each room once, in this order:

    hardware.detect() -> models.choose() -> launch.launch() -> Engine
    lab.measure(key, Load(engine, prompts.*(), Closed(...))) -> load.run() -> client.stream() -> Trace
    metrics.summarise() -> results.record() -> milestones / report / plots

Only `shared.models.llama` imports torch. No module does any work when it is imported, with one exception: this one
excludes the machine's own addresses from the proxies that its environment names, and makes output fit the terminal.
"""

from shared import proxies, terminal
from shared.errors import LabError

proxies.settle()
terminal.adapt()

__all__ = ["LabError"]

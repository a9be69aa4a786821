"""Many users at once: the prompts, the loops that send them, and the client that timestamps the answers."""

from shared.load.client import Trace, stream
from shared.load.loads import Closed, Died, Load, Poisson, Run, users_text
from shared.load.loops import run

__all__ = ["Closed", "Died", "Load", "Poisson", "Run", "Trace", "run", "stream", "users_text"]

"""Many users at once: prompts, the client that stamps their answers, and the loops that send them."""

from shared.load.client import Trace, stream
from shared.load.loads import Closed, Died, Load, Poisson, Run, users_text
from shared.load.loops import run

__all__ = ["Closed", "Died", "Load", "Poisson", "Run", "Trace", "run", "stream", "users_text"]

"""Many users at once: prompts, the client that stamps their answers, and the loops that send them."""

from shared.load.client import Trace, stream
from shared.load.loops import closed, open_loop
from shared.load.run import Died, Run, users_text

__all__ = ["Died", "Run", "Trace", "closed", "open_loop", "stream", "users_text"]

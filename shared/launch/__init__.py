"""Start a real engine, wait until it answers, and make sure that it ends."""

from shared.launch.launcher import alone, launch, stop_all
from shared.launch.reuse import down
from shared.launch.starts import together

__all__ = ["alone", "down", "launch", "stop_all", "together"]

"""Start a real engine, wait until it answers, and make sure that it ends."""

from shared.launch.launcher import alone, down, launch, stop_all

__all__ = ["alone", "down", "launch", "stop_all"]

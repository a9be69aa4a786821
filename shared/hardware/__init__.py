"""What machine this is, and what it lacks. `detect()` is where every lab begins."""

from shared.hardware.machine import Machine, detect
from shared.hardware.processor import torch_dtype

__all__ = ["Machine", "detect", "torch_dtype"]

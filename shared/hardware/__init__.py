"""Describe this machine and what it lacks. Every lab begins with `detect()`."""

from shared.hardware.machine import Machine, detect
from shared.hardware.processor import torch_dtype

__all__ = ["Machine", "detect", "torch_dtype"]

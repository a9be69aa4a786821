"""Which weights a machine uses. Only `models.llama`, the reference in plain torch, loads torch: import it by name."""

from shared.models.choice import ModelChoice, choose, small

__all__ = ["ModelChoice", "choose", "small"]

"""Choose the weights for a machine. Import `models.llama` by name: only that file of this room loads torch."""

from shared.models.choice import ModelChoice, choose, small

__all__ = ["ModelChoice", "choose", "small"]

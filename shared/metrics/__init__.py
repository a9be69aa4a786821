"""From traces to figures, and the physical limits of a machine."""

from shared.metrics.saturation import knee
from shared.metrics.spread import Spread, interval
from shared.metrics.summary import Slo, late_ms, summarise

__all__ = ["Slo", "Spread", "interval", "knee", "late_ms", "summarise"]

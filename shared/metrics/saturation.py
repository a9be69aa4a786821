"""The load beyond which more load hardly brings more."""

from collections.abc import Mapping

import numpy as np

KNEE_AT_LEAST = 4  # points, below which a curve has no shape


def knee(points: Mapping[float, float]) -> float | None:
    """The load beyond which more load hardly brings more: where {load: throughput} bends most; None if it doesn't.

    Kneedle (Satopää, Albrecht, Irwin, Raghavan, "Finding a 'Kneedle' in a Haystack", ICDCSW 2011), offline, with
    sensitivity 1, for a rising curve that flattens: both axes are scaled to 0…1, and the knee is where the curve lies
    furthest above its diagonal, if it comes back towards the diagonal by more than the mean step of load afterwards.
    """
    loads = sorted(points)
    if len(loads) < KNEE_AT_LEAST:
        return None
    x, y = np.array(loads, float), np.array([points[load] for load in loads], float)
    if y.max() == y.min():
        return None
    x, y = (x - x[0]) / (x[-1] - x[0]), (y - y.min()) / (y.max() - y.min())
    above = y - x
    best = int(above.argmax())
    back = above[best] - float(np.diff(x).mean())
    return loads[best] if above[best] > 0 and above[best:].min() < back else None

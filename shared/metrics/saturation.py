"""The load beyond which more load hardly brings more throughput."""

from collections.abc import Mapping

KNEE_AT_LEAST = 4  # points; fewer don't show a shape


def knee(points: Mapping[float, float]) -> float | None:
    """The load at which the curve {load: throughput} flattens; None if it doesn't, or has fewer than four points.

    Kneedle (Satopää, Albrecht, Irwin, Raghavan, "Finding a 'Kneedle' in a Haystack", ICDCSW 2011), offline, with
    sensitivity 1. Both axes are scaled to 0…1. The knee is the first load at which the height above the diagonal has a
    local maximum and then falls by more than the mean step of load, before it rises again.
    """
    loads = sorted(points)
    throughput = [points[load] for load in loads]
    if len(loads) < KNEE_AT_LEAST or min(throughput) == max(throughput):
        return None
    from kneed import KneeLocator  # loads scipy, which takes about a second

    found = KneeLocator(loads, throughput, S=1, curve="concave", direction="increasing", online=True)
    # kneed takes the first load for a maximum where the curve starts below its diagonal. In the paper a maximum has
    # neighbours on both sides. With `online`, `all_knees` also lists the later knees.
    return next((load for load in loads[1:] if load in found.all_knees), None)

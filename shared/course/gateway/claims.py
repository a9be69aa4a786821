"""Lab 3.3.5: the claims of its milestone, and the test of each claim on the results."""

from shared.course.evidence import Claim, Evidence
from shared.course.gateway.five_failures import FAILURES

FIVE = tuple(one.exercise for one in FAILURES.values())


def five_failures(evidence: Evidence) -> tuple[bool, str]:
    entries = evidence.of("failure/")
    shown = {}
    for name, failure in FAILURES.items():
        for gateway in ("naive", "gateway"):
            key = f"failure/{name}/{gateway}"
            if key not in entries:
                return False, f"missing: {key}: run the cell `{CELLS[gateway].format(name)}`"
            values = failure.read(evidence.raw(key))
            if values != entries[key]["values"]:
                return False, f"{key} doesn't follow from its raw data"
            shown[name, gateway] = failure.mended(values), failure.seen(values)
    if unshown := [name for name in FAILURES if shown[name, "naive"][0]]:
        return False, f"the naïve gateway did not fail at: {', '.join(unshown)}"
    if failed := [f"{name} ({shown[name, 'gateway'][1]})" for name in FAILURES if not shown[name, "gateway"][0]]:
        return False, f"your gateway fails at: {'; '.join(failed)}"
    return True, "; ".join(f"{name}: {shown[name, 'gateway'][1]}" for name in FAILURES)


CELLS = {"naive": "fail-{}", "gateway": "five-again"}

CLAIMS = (
    Claim("The naïve gateway fails in five ways, and mine in none of them", five_failures,
          {"failure/": "five-again"}, FIVE),
)  # fmt: skip

"""Check whether this machine is fit for the labs: one row per requirement, with the fix where one fails.

    make doctor                      # the table; exit code 1 if something failed
    make doctor ARGS=--json          # the same for programs
    make doctor ARGS=--symptoms      # known failures of a DGX Spark and of containers

Only checks that apply to this machine are listed. The doctor changes nothing and never runs sudo: its fixes are
commands to read and to run by hand. Nothing about a DGX Spark was verified on hardware.
"""

import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict

from shared.errors import command
from shared.hardware import doctor_checks as general
from shared.hardware import doctor_gpu_checks as gpu
from shared.hardware import symptoms
from shared.hardware.doctor_checks import Check
from shared.hardware.host import Host
from shared.hardware.machine import Machine, detect

WIDTH = 100  # of everything printed

# The most important first.
CHECKS: tuple[Callable[[Host, Machine], Check | None], ...] = (
    general.check_python, general.check_package, general.check_compiler, general.check_git, general.check_disk,
    general.check_locks, gpu.check_image_disk, general.check_cores, general.check_memory, general.check_swap,
    general.check_cache, gpu.check_gpu, gpu.check_cuda, gpu.check_bfloat16, gpu.check_architecture, gpu.check_docker,
    gpu.check_docker_gpu, gpu.check_kernel, gpu.check_holders, general.check_engines, general.check_ports,
    general.check_proxy, general.check_token, general.check_browser,
)  # fmt: skip


def doctor(host: Host | None = None) -> tuple[Machine, list[Check]]:
    """The machine and every check that applies to it, the most important first.

    A check that raises an exception counts as failed. Without `host`, every fact of this machine is read afresh.
    """
    host = host or Host()
    machine = detect(host)
    checks = []
    for check in CHECKS:
        try:
            found = check(host, machine)
        except Exception as e:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            seen = f"the check itself failed: {type(e).__name__}: {e}"
            found = Check(name, "failed", seen, "this is a bug in the labs", "show this line to your instructor")
        if found:
            checks.append(found)
    return machine, checks


def wrapped(label: str, text: str, indent: int) -> str:
    """Wrap text after a label, with a hanging indent. Words are never cut, so that commands can be copied."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=label.ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(machine: Machine, checks: list[Check]) -> str:
    """The checks as text: state, name and observation, and below them the reason and the fix, if there is a fix."""
    column = max(len(c.name) for c in checks) + 11
    lines = [wrapped("", str(machine), 0), ""]
    for c in checks:
        lines.append(wrapped(f"{c.state:<8} {c.name}", c.observed, column))
        if c.fix:
            lines += [wrapped(" " * 9 + "why", c.why, 14), wrapped(" " * 9 + "fix", c.fix, 14)]
    count = {state: sum(c.state == state for c in checks) for state in ("ok", "warning", "failed")}
    lines += ["", f"{count['ok']} ok, {count['warning']} to consider, {count['failed']} failed."]
    return "\n".join(lines)


def symptom_table() -> str:
    """The known failures of a DGX Spark and of containers, and how well each is attested."""
    blocks = []
    for s in symptoms.rows("spark"):
        rows = (("cause", s.cause), ("check", s.check), ("fix", s.fix), ("source", f"{s.reports}: {s.source}"))
        blocks.append("\n".join([wrapped("", s.symptom, 0), *(wrapped(f"  {k}", v, 9) for k, v in rows)]))
    return "\n\n".join([*blocks, "Collected from published reports; none of it was verified on hardware by us."])


@command
def main() -> int:
    if unknown := set(sys.argv[1:]) - {"--json", "--symptoms"}:
        print(
            f"Unknown argument: {' '.join(sorted(unknown))}. "
            "Usage: python -m shared.hardware.doctor [--json] [--symptoms]",
            file=sys.stderr,
        )
        return 2
    if "--symptoms" in sys.argv and "--json" not in sys.argv:
        print(symptom_table())
        return 0
    machine, checks = doctor()
    if "--json" in sys.argv:
        print(
            json.dumps(
                {
                    "machine": asdict(machine),
                    "checks": [asdict(c) for c in checks],
                    "symptoms": [asdict(s) for s in symptoms.rows("spark")],
                },
                indent=1,
            )
        )
    else:
        print(table(machine, checks))
    return int(any(c.state == "failed" for c in checks))


if __name__ == "__main__":
    sys.exit(main())

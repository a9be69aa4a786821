"""Whether this machine is fit for the labs: one row per requirement, and what to do where one fails.

    make doctor                      # the table; exit code 1 if something failed
    make doctor ARGS=--json          # the same for programs
    make doctor ARGS=--symptoms      # what else goes wrong, how it shows, and the fix

Only checks that apply to this machine are listed. Nothing is changed, and nothing asks for sudo: fixes are
commands to read and to run by hand. Nothing about a DGX Spark was verified on hardware.
"""

import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict

from shared.hardware import doctor_checks as general
from shared.hardware import doctor_gpu_checks as gpu
from shared.hardware import symptoms
from shared.hardware.doctor_checks import Check
from shared.hardware.host import Host
from shared.hardware.machine import Machine, detect

WIDTH = 100  # of everything printed

# In the order in which they matter.
CHECKS: tuple[Callable[[Host, Machine], Check | None], ...] = (
    general.check_python, general.check_package, general.check_compiler, general.check_git, general.check_disk,
    gpu.check_image_disk, general.check_cores, general.check_memory, general.check_swap, general.check_cache,
    gpu.check_gpu, gpu.check_cuda, gpu.check_bfloat16, gpu.check_architecture, gpu.check_docker, gpu.check_docker_gpu,
    gpu.check_kernel, gpu.check_holders, general.check_engines, general.check_ports, general.check_token,
    general.check_browser,
)  # fmt: skip


def doctor(host: Host | None = None) -> tuple[Machine, list[Check]]:
    """The machine and every check that applies to it, in the order in which they matter.

    A check that goes wrong itself is a failed check. Without `host`, this machine is asked afresh.
    """
    host = host or Host()
    machine = detect(host)
    checks = []
    for check in CHECKS:
        try:
            found = check(host, machine)
        except Exception as e:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            found = Check(
                name,
                "failed",
                f"the check itself failed: {type(e).__name__}: {e}",
                "this is our mistake",
                "please report this line",
            )
        if found:
            checks.append(found)
    return machine, checks


def wrapped(label: str, text: str, indent: int) -> str:
    """Text after a label, its lines below each other; words are never cut, so that commands can be copied."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=label.ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(machine: Machine, checks: list[Check]) -> str:
    """State in words, name, what was seen; below it why it matters and the fix, where there is one."""
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
    """What is known to go wrong on a DGX Spark and with containers, and how well it is attested."""
    blocks = []
    for s in symptoms.rows("spark"):
        rows = (("cause", s.cause), ("check", s.check), ("fix", s.fix), ("known", f"{s.reports}: {s.source}"))
        blocks.append("\n".join([wrapped("", s.symptom, 0), *(wrapped(f"  {k}", v, 9) for k, v in rows)]))
    return "\n\n".join([*blocks, "Collected from published reports; none of it was verified on hardware by us."])


def main() -> int:
    if unknown := set(sys.argv[1:]) - {"--json", "--symptoms"}:
        print(
            f"unknown: {' '.join(sorted(unknown))}; usage: python -m shared.hardware.doctor [--json] [--symptoms]",
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

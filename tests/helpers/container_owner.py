"""A program of its own that runs an engine's container under a watchdog, whose process id it prints.

python -c OWNER ENGINE PORT WEIGHTS
"""

OWNER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from shared.engines import ENGINES, LaunchPlan
from shared.launch import containers, memory, running
from shared.models import hub
machine = SimpleNamespace(unified_memory=False, memory_gib=24.0)
spec, port = ENGINES[sys.argv[1]], int(sys.argv[2])
name, label = f"{containers.LABEL}-{spec.name}-owned", containers.new_label()
flags = []
what = LaunchPlan(Path("/nowhere"), SimpleNamespace(name="m"), "BF16", 30000, 2, {}, sys.argv[3], 0, 0.1)
command = containers.run_command(spec, what, flags, name=name, label=label, port=port, hub=hub.home(), gpu=[])
need = memory.Need("SGLang", 0, 0, 0, 0)
engine = running.start_guarded(spec, what, command, port, {}, "v", need, machine, name, label)
print(engine.process.pid, flush=True)
time.sleep(60)
"""

"""Run an engine in a process of its own, without the code of the model: it imports nothing of this package.

    python run_engine.py FOLDER THREADS [profile]

It loads the engine, then answers requests from stdin until stdin ends. Requests and answers are pickled. The first
answer is {"load_s", "modules"} or {"error"}; a request is (ids [1, T], last [1], repeats), its answer (logits of the
last repeat [vocabulary], the seconds of each repeat, and with `profile` name, type and seconds of its kernels).
"""

import json
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Infer = Callable[[Any, Any], Any]
Nodes = Callable[[], list[tuple[str, str, float]]]
OURS = ("shared", "transformers", "nncf")  # the code of the model, and what only a build needs


def load_openvino(folder: Path, made_of: dict[str, Any], threads: int, profile: bool) -> tuple[Infer, Nodes]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # else importing OpenVINO sends usage data
    import openvino as ov

    # A blob remembers its kernels but not these settings: without them the plugin would choose a precision of its own.
    hint = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[made_of["recipe"]["precision"]]
    settings = {
        "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": profile,
    }  # fmt: skip
    request = ov.Core().import_model((folder / "engine.blob").read_bytes(), "CPU", settings).create_infer_request()

    def nodes() -> list[tuple[str, str, float]]:
        return [(one.node_name, one.node_type, one.real_time.total_seconds()) for one in request.profiling_info]

    return lambda ids, last: request.infer([ids, last])[0][0], nodes if profile else list


def load_aoti(folder: Path, made_of: dict[str, Any], threads: int, profile: bool) -> tuple[Infer, Nodes]:
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    run = torch._inductor.aoti_load_package(str(folder / "engine.pt2"))
    device = made_of["device"]

    def infer(ids: Any, last: Any) -> Any:
        found = run(torch.from_numpy(ids).to(device), torch.from_numpy(last).to(device))
        return found[0].float().cpu().numpy()

    return infer, list


def main() -> None:
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints must not get between the answers

    def answer(value: Any) -> None:
        pickle.dump(value, out)
        out.flush()

    folder, threads, profile = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["profile"]
    start = time.perf_counter()
    try:
        made_of = json.loads((folder / "manifest.json").read_text())["made_of"]
        load = {"openvino": load_openvino, "aoti": load_aoti}[made_of["compiler"]]
        infer, nodes = load(folder, made_of, threads, profile)
    except Exception as e:
        answer({"error": f"{type(e).__name__}: {e}"})
        return
    answer({"load_s": time.perf_counter() - start, "modules": [name for name in OURS if name in sys.modules]})
    while True:
        try:
            ids, last, repeats = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        took_s = []
        for _ in range(repeats):
            began = time.perf_counter()
            logits = infer(ids, last)
            took_s.append(time.perf_counter() - began)
        answer((logits, took_s, nodes()))


if __name__ == "__main__":
    main()

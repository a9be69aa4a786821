"""JavaScript modules, run in the node that Playwright's package brings: no browser is needed.

run(text, "lines", "return f(data.first)", {"first": 7})        # {"result": ...}
"""

import functools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from shared.errors import LabError

LIMIT_S = 10.0  # of one run; most end within a tenth of a second
SCENE = """
import { readFileSync, writeFileSync } from "node:fs";
const end = (found) => { writeFileSync("found.json", JSON.stringify(found)); process.exit(0); };
const failed = (error) => end({ error: error instanceof Error ? `${error.name}: ${error.message}` : String(error) });
process.on("unhandledRejection", failed);
process.on("uncaughtException", failed);
const [name, data] = JSON.parse(readFileSync("asked.json"));
globalThis.window = globalThis;
try {
  const f = (await import("./module.mjs"))[name];
  if (typeof f !== "function") end({ error: `the file exports no function ${name}` });
  end({ result: (await (async (f, data) => { %s })(f, data)) ?? null });
} catch (error) {
  failed(error);
}
"""


def run(text: str, name: str, scene: str, data: object = None) -> dict[str, Any]:
    """Run a scene, the body of an async function, in which `f` is what the module exports under this name.

    Returns {"result": what the scene returns, as JSON carries it} or {"error": what went wrong}. The same scene with
    the same module is not run twice, unless it took too long. Raises LabError where node is missing.
    """
    try:
        found: dict[str, Any] = json.loads(_ran(text, name, scene, json.dumps(data)))
    except subprocess.TimeoutExpired:  # not kept: on a busy machine, what is right may take too long once
        return {"error": f"no end within {LIMIT_S:g} s: does every loop end, and every promise?"}
    return found


@functools.lru_cache(maxsize=256)
def _ran(text: str, name: str, scene: str, data: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        files = {"module.mjs": text, "scene.mjs": SCENE % scene, "asked.json": json.dumps([name, json.loads(data)])}
        for file, content in files.items():
            Path(folder, file).write_text(content)
        try:
            subprocess.run([node(), "scene.mjs"], cwd=folder, capture_output=True, timeout=LIMIT_S)
            return Path(folder, "found.json").read_text()
        except FileNotFoundError:  # node ends when nothing is left that could happen
            return json.dumps({"error": "no end: it waits for something that never happens"})


def node() -> str:
    """The program that runs JavaScript. Raises LabError if it is missing."""
    import playwright

    found = Path(playwright.__file__).parent / "driver" / "node"
    if not found.exists():
        raise LabError(f"{found} is missing.", "make setup")
    return str(found)

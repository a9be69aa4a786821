"""The exercises in JavaScript: `lines`, the streaming reader, and `pacer`, the rhythm of rendering."""

from typing import Any

from shared.course.exercise import Exercise, Function, Wrong

TEXT = '{"text": "Grüße"}\n{"text": "世界 🙂"}\n\n{"text": "a\\nb"}\n{"text": "the end"}'
OBJECTS = [{"text": "Grüße"}, {"text": "世界 🙂"}, {"text": "a\nb"}, {"text": "the end"}]
SIZES = (1000, 20, 7, 3, 2, 1)  # bytes of a block
READ = """
const bytes = (text) => new TextEncoder().encode(text);
const waited = () => new Promise((resolve) => setTimeout(resolve, 1000, "late"));
const late = (promise) => Promise.race([promise.catch((error) => ({ failed: `${error}` })), waited()]);
let cancelled = false;
const stream = (blocks, end) => new Response(new ReadableStream({
  pull: (control) => blocks.length ? control.enqueue(blocks.shift()) : end(control),
  cancel: () => { cancelled = true; },
}, { highWaterMark: 0 }));
const objects = async (blocks) => {
  const found = [];
  try {
    for await (const one of f(stream(blocks, (control) => control.close()))) found.push(one);
  } catch (error) {
    return { found, error: `${error.name}: ${error.message}` };
  }
  return { found };
};
const cut = (size) => {
  const all = bytes(data.text);
  return Array.from({ length: Math.ceil(all.length / size) }, (_, n) => all.slice(n * size, (n + 1) * size));
};
const found = { line: await objects([bytes('{"n": 1}\\n')]), empty: await objects([]), cut: {} };
for (const size of data.sizes) found.cut[size] = await objects(cut(size));
const reader = f(stream([bytes('{"n": 1}\\n{"n": 2}\\n{"n":')], () => new Promise(() => {})));
found.first = await late(reader.next());
found.second = await late(reader.next());
if (found.second !== "late") {
  cancelled = false;
  found.left = await late(reader.return());
  found.cancelled = cancelled;
}
try {
  for await (const one of f(stream([bytes('{"n": 1}\\n')], (control) => control.error(new Error("reset"))))) one;
  found.reset = "swallowed";
} catch (error) {
  found.reset = error.message;
}
return found;
"""
PACE = """
const frames = new Map();
let asked = 0;
globalThis.requestAnimationFrame = (call) => { frames.set(++asked, call); return asked; };
globalThis.cancelAnimationFrame = (id) => frames.delete(id);
const frame = () => { const due = [...frames.values()]; frames.clear(); for (const call of due) call(16.7 * asked); };
const log = [];
const note = (what) => log.push([what, asked, calls.splice(0)]);
const calls = [];
let within = null;
const pace = f((text) => {
  calls.push(text);
  if (within) { const add = within; within = null; pace.add(add); }
});
if (typeof pace?.add !== "function" || typeof pace?.flush !== "function") return null;
for (const text of ["a", "b", "c"]) pace.add(text);
await new Promise((resolve) => setTimeout(resolve, 50));
note("added");
frame(); note("frame");
frame(); note("idle frame");
pace.add("d"); frame(); note("second");
pace.add("e"); pace.flush(); note("flush");
frame(); note("after flush");
pace.flush(); note("empty flush");
pace.add("f"); frame(); note("third");
within = "h"; pace.add("g"); frame(); frame(); note("within");
pace.flush(); note("rest");
return log;
"""


def lines(f: Function) -> None:
    found = f(READ, {"text": TEXT, "sizes": SIZES})
    line, whole = found["line"], found["cut"]["1000"]
    if any(isinstance(one, str) for one in line["found"]):
        raise Wrong("It yields a text. Yield the object that JSON.parse makes of each line.")
    if "error" in line:
        raise Wrong(f"One block with one line came, and it failed: {line['error']}.")
    if not line["found"]:
        raise Wrong(
            "One block with one line came, and nothing was yielded. (`yield` inside a callback yields nothing.)"
        )
    if found["first"] == "late" or found["second"] == "late":
        raise Wrong(
            "Two lines were whole, and the stream went on: both objects should have been yielded by then. Read block "
            "by block, and don't wait for the end."
        )
    if "error" in whole and whole["found"] == OBJECTS[:2]:
        raise Wrong("An empty line is no object: skip it.")
    if "error" in whole:
        raise Wrong(f"A block may hold many lines, and half a line: split it at the newlines. ({whole['error']})")
    if whole["found"] == OBJECTS[:-1]:
        raise Wrong("The stream's last line has no newline. At the end, what is left is a line, too.")
    for size, one in found["cut"].items():
        if "\ufffd" in str(one["found"]):
            raise Wrong(
                f"In blocks of {size} bytes a character was cut in two and lost. One TextDecoder for the whole stream, "
                "with {stream: true}, keeps the half."
            )
        if one["found"] != OBJECTS:
            why = f" ({one['error']})" if "error" in one else ""
            raise Wrong(
                f"In blocks of {size} bytes a line comes in pieces: keep its beginning for the next block.{why}"
            )
    if found["empty"].get("error") or found["empty"]["found"]:
        raise Wrong("A stream without a byte has no objects, and is no error.")
    if found["reset"] == "swallowed":
        raise Wrong("The connection broke, and the caller did not learn of it: let the error pass.")
    if not found.get("cancelled"):
        raise Wrong(
            "The caller left after two objects, and the connection stayed open: the engine would go on. Cancel the "
            "reader in `finally`, which also runs when the caller leaves."
        )


def pacer(f: Function) -> None:
    log = f(PACE)
    if log is None:
        raise Wrong("pacer should return an object with two functions: {add, flush}.")
    asked: dict[str, int] = {what: frames for what, frames, _ in log}
    calls: dict[str, Any] = {what: rendered for what, _, rendered in log}
    if calls["added"]:
        raise Wrong("Text was rendered before a frame came. Gather it, and render inside requestAnimationFrame.")
    if not asked["added"]:
        raise Wrong("No frame was asked for: without requestAnimationFrame, text comes on the screen at other times.")
    if any("" in rendered for rendered in calls.values()):
        raise Wrong("render was called with no text. Where nothing waits, there is nothing to render.")
    if calls["frame"] in (["a"], ["c"]):
        raise Wrong(f"Three pieces came before the frame, and only {calls['frame'][0]!r} was rendered: gather them.")
    if len(calls["frame"]) > 1:
        raise Wrong("Three pieces came before one frame, and render ran three times. Call it once, with all of them.")
    if calls["frame"] != ["abc"]:
        raise Wrong(f"After the frame 'abc' should have been rendered; yours rendered {calls['frame']}.")
    if asked["added"] > 1:
        raise Wrong("Each piece asked for a frame of its own. Ask for one only if none is on its way.")
    if asked["idle frame"] > asked["frame"]:
        raise Wrong("A frame was asked for although no text waits: the page would work in every frame, for ever.")
    if calls["second"] in (["abcd"],):
        raise Wrong("Text was rendered twice: what has been rendered must be removed from what waits.")
    if not calls["second"]:
        raise Wrong("After the first frame nothing was rendered any more: when a frame has come, forget it.")
    if calls["flush"] != ["e"]:
        raise Wrong(f"flush renders at once what waits: 'e'. Yours rendered {calls['flush'] or 'nothing'}.")
    if calls["after flush"] or calls["empty flush"]:
        raise Wrong("flush had rendered all, and the text was rendered once more: after flush nothing waits.")
    if calls["third"] != ["f"]:
        raise Wrong("After a flush nothing was rendered any more: flush cancels the frame, so forget that frame, too.")
    if "".join(calls["within"]) == "g" and calls["rest"] == ["h"]:
        raise Wrong(
            "Text came while render ran, and no frame was asked for it: forget the frame before you call render."
        )
    if "".join(calls["within"]) != "gh":
        raise Wrong("Text came while render ran, and was lost: empty the variable before you call render.")


LINES = Exercise(
    "lines", "exercise-lines", 3, 3, 15,
    "Each piece of an answer is shown as soon as its line is whole, and a stop closes the connection.",
    (
        "The network cuts anywhere. What of a block may be used now, and what must wait for the next one?",
        "decoder.decode(value, {stream: true}) keeps half a character; parts.pop() is the line that is not whole.",
        "A generator's `finally` runs at its end, after an error, and when the caller leaves: `reader.cancel()` there.",
    ),
    lines, "webui/static/lines.js",
)  # fmt: skip
PACER = Exercise(
    "pacer", "exercise-pacer", 2, 3, 10,
    "The page's work depends on the screen's frames, and no longer on how fast the engine is.",
    (
        "How often can a reader see a change? How often do tokens come?",
        "Keep the text in a variable, and remember whether a frame is already on its way.",
        "When the frame comes: forget the frame, take the text out of the variable, and then render it.",
    ),
    pacer, "webui/static/pacer.js",
)  # fmt: skip

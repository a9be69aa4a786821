"""Lab 3.3.6. An answer in JavaScript is a module's text."""

import re
from collections.abc import Iterable
from typing import Any

from shared.course import registry, starter
from shared.course.starter import Module

REFERENCE = starter.reference_package(registry.find_lab("3.3.6"))
WebError = REFERENCE["errors"].WebError
Row = dict[str, Any]


def splits_lines(data: bytes) -> tuple[list[bytes], bytes]:
    return [line for line in data.splitlines() if line.strip()], b""


def splits_at_returns(data: bytes) -> tuple[list[bytes], bytes]:
    end = data.rfind(b"\n") + 1
    return [line for line in data[:end].splitlines() if line.strip()], data[end:]


def keeps_newlines(data: bytes) -> tuple[list[bytes], bytes]:
    end = data.rfind(b"\n") + 1
    return [line + b"\n" for line in data[:end].split(b"\n") if line.strip()], data[end:]


def drops_half_characters(data: bytes) -> tuple[list[bytes], bytes]:
    *whole, rest = data.decode(errors="ignore").split("\n")
    return [line.encode() for line in whole if line.strip()], rest.encode()


def as_text(data: bytes) -> Any:
    *whole, rest = data.decode(errors="replace").split("\n")
    return [line for line in whole if line.strip()], rest


def with_empty(data: bytes) -> tuple[list[bytes], bytes]:
    *whole, rest = data.split(b"\n")
    return whole, rest


def drops_rest(data: bytes) -> tuple[list[bytes], bytes]:
    *whole, _ = data.split(b"\n")
    return [line for line in whole if line.strip()], b""


def lines_alone(data: bytes) -> Any:
    return [line for line in data.split(b"\n") if line.strip()]


def text_separator(data: Any) -> Any:
    *whole, rest = data.split("\n")
    return whole, rest


def strips_rest(data: bytes) -> tuple[list[bytes], bytes]:
    whole, rest = lines_otherwise(data)
    return whole, rest.strip()


def lines_otherwise(data: bytes) -> tuple[list[bytes], bytes]:
    end = data.rfind(b"\n") + 1
    return [line for line in data[:end].split(b"\n") if line.strip()], data[end:]


def state_only(self: Any, note: str = "") -> None:
    if self.state == "running":
        self.note, self.state = note, "stopped"
        self.tell()


def stop_without_task(self: Any, note: str = "") -> None:
    if self.task and self.state == "running":
        self.note = note
        self.task.cancel()
        self.task = None


def stop_without_note(self: Any, note: str = "") -> None:
    if self.task and self.state == "running":
        self.task.cancel()


def stop_always(self: Any, note: str = "") -> None:
    self.note = note
    if self.task:
        self.task.cancel()


async def stop_async(self: Any, note: str = "") -> None:
    self.task.cancel()


def stop_before_start(self: Any, note: str = "") -> None:
    self.note = note
    self.task.cancel()


def stop_while_it_is_saved(self: Any, note: str = "") -> None:
    if self.task and not self.task.done():
        self.note = note
        self.task.cancel()


def stop_marks_what_has_not_begun(self: Any, note: str = "") -> None:
    if self.state == "running":
        self.note, self.state = note, "stopped"
        if self.task:
            self.task.cancel()


def stop_otherwise(self: Any, note: str = "") -> None:
    if self.task is None or self.task.done() or self.state != "running":
        return
    self.note = note
    self.task.cancel("stop")


LINES_START = "export async function* lines(response) {"
WHOLE_TEXT = f"""{LINES_START}
  for (const line of (await response.text()).split("\\n")) if (line.trim()) yield JSON.parse(line);
}}"""
NO_STREAM = f"""{LINES_START}
  const reader = response.body.getReader();
  let rest = "";
  try {{
    for (;;) {{
      const {{ done, value }} = await reader.read();
      if (done) break;
      const parts = (rest + new TextDecoder().decode(value)).split("\\n");
      rest = parts.pop();
      for (const line of parts) if (line.trim()) yield JSON.parse(line);
    }}
    if (rest.trim()) yield JSON.parse(rest);
  }} finally {{ await reader.cancel().catch(() => {{}}); }}
}}"""
BLOCK_IS_LINE = f"""{LINES_START}
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  for (;;) {{
    const {{ done, value }} = await reader.read();
    if (done) return;
    yield JSON.parse(decoder.decode(value, {{ stream: true }}));
  }}
}}"""
NO_REST = f"""{LINES_START}
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  for (;;) {{
    const {{ done, value }} = await reader.read();
    if (done) return;
    for (const line of decoder.decode(value, {{ stream: true }}).split("\\n")) if (line.trim()) yield JSON.parse(line);
  }}
}}"""
LAST_LOST = NO_STREAM.replace("new TextDecoder().decode(value)", "decoder.decode(value, { stream: true })").replace(
    'let rest = "";', 'let rest = "";\n  const decoder = new TextDecoder();'
)
RIGHT_OTHERWISE = LAST_LOST
LAST_LOST = LAST_LOST.replace("    if (rest.trim()) yield JSON.parse(rest);\n", "")
EMPTY_LINE = RIGHT_OTHERWISE.replace("if (line.trim()) ", "")
STAYS_OPEN = RIGHT_OTHERWISE.replace("await reader.cancel().catch(() => {});", "reader.releaseLock();")
SWALLOWS = RIGHT_OTHERWISE.replace("  } finally", "  } catch {} finally")
TEXTS = RIGHT_OTHERWISE.replace("JSON.parse(line)", "line")
THROWS = f"{LINES_START} response.bodies.getReader(); }}"
NOT_EXPORTED = RIGHT_OTHERWISE.replace("export ", "")
BODY_LOOP = f"""{LINES_START}
  const decoder = new TextDecoder();
  let rest = "";
  for await (const block of response.body) {{
    rest += decoder.decode(block, {{ stream: true }});
    for (let at; (at = rest.indexOf("\\n")) >= 0; rest = rest.slice(at + 1)) {{
      if (rest.slice(0, at).trim()) yield JSON.parse(rest.slice(0, at));
    }}
  }}
  if (rest.trim()) yield JSON.parse(rest);
}}"""

PACER_START = "export function pacer(render) {"
AT_ONCE = f"{PACER_START} return {{ add: render, flush() {{}} }}; }}"
TIMER = f"""{PACER_START}
  let waiting = "";
  const flush = () => {{ const text = waiting; waiting = ""; if (text) render(text); }};
  return {{ add(text) {{ waiting += text; setTimeout(flush, 16); }}, flush }};
}}"""
FRAME_EACH = f"""{PACER_START}
  let waiting = "";
  const flush = () => {{ const text = waiting; waiting = ""; if (text) render(text); }};
  return {{ add(text) {{ waiting += text; requestAnimationFrame(flush); }}, flush }};
}}"""
FORGOTTEN_TOO_LATE = f"""{PACER_START}
  let waiting = "", frame = 0;
  const draw = () => {{ const text = waiting; waiting = ""; if (text) render(text); frame = 0; }};
  const flush = () => {{ cancelAnimationFrame(frame); draw(); }};
  return {{ add(text) {{ waiting += text; frame ||= requestAnimationFrame(draw); }}, flush }};
}}"""
EACH_IN_ITS_FRAME = f"""{PACER_START}
  return {{ add(text) {{ requestAnimationFrame(() => render(text)); }}, flush() {{}} }};
}}"""
NEWEST_ONLY = f"""{PACER_START}
  let waiting = "", frame = 0;
  const flush = () => {{ frame = 0; if (waiting) render(waiting); waiting = ""; }};
  return {{ add(text) {{ waiting = text; frame ||= requestAnimationFrame(flush); }}, flush }};
}}"""
ONE_FRAME = f"""{PACER_START}
  let waiting = "", frame = 0;
  const flush = () => {{ const text = waiting; waiting = ""; if (text) render(text); }};
  return {{ add(text) {{ waiting += text; frame ||= requestAnimationFrame(flush); }}, flush }};
}}"""
NEVER_EMPTIED = f"""{PACER_START}
  let waiting = "", frame = 0;
  const flush = () => {{ frame = 0; render(waiting); }};
  return {{ add(text) {{ waiting += text; frame ||= requestAnimationFrame(flush); }}, flush }};
}}"""
RENDERS_NOTHING = f"""{PACER_START}
  let waiting = "", frame = 0;
  const flush = () => {{ frame = 0; const text = waiting; waiting = ""; render(text); }};
  return {{ add(text) {{ waiting += text; frame ||= requestAnimationFrame(flush); }}, flush }};
}}"""
FLUSH_LATER = f"""{PACER_START}
  let waiting = "", frame = 0;
  const draw = () => {{ frame = 0; const text = waiting; waiting = ""; if (text) render(text); }};
  const ask = () => {{ frame ||= requestAnimationFrame(draw); }};
  return {{ add(text) {{ waiting += text; ask(); }}, flush: ask }};
}}"""
STUCK_AFTER_FLUSH = f"""{PACER_START}
  let waiting = "", frame = 0;
  const draw = () => {{ const text = waiting; waiting = ""; if (text) render(text); }};
  const flush = () => {{ cancelAnimationFrame(frame); draw(); }};
  return {{ add(text) {{ waiting += text; frame ||= requestAnimationFrame(() => {{ frame = 0; draw(); }}); }}, flush }};
}}"""
LOST_WITHIN = f"""{PACER_START}
  let waiting = "", frame = 0;
  const flush = () => {{ cancelAnimationFrame(frame); frame = 0; if (waiting) render(waiting); waiting = ""; }};
  return {{ add(text) {{ waiting += text; frame ||= requestAnimationFrame(flush); }}, flush }};
}}"""
FOR_EVER = f"""{PACER_START}
  let waiting = "";
  const flush = () => {{ const text = waiting; waiting = ""; if (text) render(text); }};
  const draw = () => {{ requestAnimationFrame(draw); flush(); }};
  requestAnimationFrame(draw);
  return {{ add(text) {{ waiting += text; }}, flush }};
}}"""
ONLY_ADD = f"{PACER_START} return (text) => requestAnimationFrame(() => render(text)); }}"
LIST_OF_PIECES = f"""{PACER_START}
  let pieces = [], frame = null;
  function flush() {{
    if (frame !== null) window.cancelAnimationFrame(frame);
    frame = null;
    const text = pieces.splice(0).join("");
    if (text !== "") render(text);
  }}
  return {{
    add(text) {{ pieces.push(text); if (frame === null) frame = window.requestAnimationFrame(() => flush()); }},
    flush,
  }};
}}"""


def refused(why: str = "Not from here.") -> Any:
    return WebError(403, why, "Open it by its own address.")


def origin_only(headers: Any, hosts: Iterable[str]) -> Any:
    origin, host = headers.get("origin"), headers.get("host", "")
    return refused() if origin is not None and origin != f"http://{host}" else None


def host_only(headers: Any, hosts: Iterable[str]) -> Any:
    return None if headers.get("host") in hosts else refused()


def origin_needed(headers: Any, hosts: Iterable[str]) -> Any:
    host = headers.get("host")
    return None if host in hosts and headers.get("origin") == f"http://{host}" else refused()


def origin_contains(headers: Any, hosts: Iterable[str]) -> Any:
    host, origin = headers.get("host", ""), headers.get("origin")
    if host not in hosts or (origin is not None and host not in origin):
        return refused()
    return None


def null_passes(headers: Any, hosts: Iterable[str]) -> Any:
    host, origin = headers.get("host", ""), headers.get("origin")
    return None if host in hosts and origin in (None, "null", f"http://{host}") else refused()


def no_fetch_site(headers: Any, hosts: Iterable[str]) -> Any:
    host, origin = headers.get("host", ""), headers.get("origin")
    return None if host in hosts and origin in (None, f"http://{host}") else refused()


def no_links(headers: Any, hosts: Iterable[str]) -> Any:
    return refused() if headers.get("sec-fetch-site") == "cross-site" else no_fetch_site(headers, hosts)


def links_first(headers: Any, hosts: Iterable[str]) -> Any:
    """Lets navigations pass before it looks at Origin."""
    if headers.get("host") in hosts and headers.get("sec-fetch-mode") == "navigate":
        return None
    return refusal_otherwise(headers, hosts)


def links_to_any_host(headers: Any, hosts: Iterable[str]) -> Any:
    if headers.get("sec-fetch-mode") == "navigate" and "origin" not in headers:
        return None
    return refusal_otherwise(headers, hosts)


def part_of_the_host(headers: Any, hosts: Iterable[str]) -> Any:
    host = headers.get("host", "")
    if not any(host.startswith(one) for one in hosts):
        return refused()
    return refusal_otherwise(headers, [*hosts, host]) if "origin" not in headers else refusal_otherwise(headers, hosts)


def another_status(headers: Any, hosts: Iterable[str]) -> Any:
    return WebError(400, "No.", "Go.") if refusal_otherwise(headers, hosts) else None


def says_false(headers: Any, hosts: Iterable[str]) -> Any:
    return no_fetch_site(headers, hosts) is None


def refusal_otherwise(headers: Any, hosts: Iterable[str]) -> Any:
    host = headers.get("host")
    if host is None or host not in set(hosts):
        return refused("Another host.")
    if "origin" in headers and headers["origin"] != "http://" + host:
        return refused("Another page.")
    cross = headers.get("sec-fetch-site", "none") == "cross-site"
    return refused("Another site.") if cross and headers.get("sec-fetch-mode") != "navigate" else None


COLUMNS = """messages.id, chats.id AS chat, ifnull(chats.pair, chats.id) AS opens, chats.title, messages.role,
    messages.created"""
JOINED = "FROM words JOIN messages ON messages.id = words.rowid JOIN chats ON chats.id = messages.chat"
SNIPPET = "snippet(words, 0, char(1), char(2), '…', 16) AS snippet"


def matched(history: Any, query: str, limit: int, snippet: str = SNIPPET, order: str = "rank") -> list[Row]:
    sql = f"SELECT {COLUMNS}, {snippet} {JOINED} WHERE words MATCH ? ORDER BY {order} LIMIT ?"
    found: list[Row] = history.rows(sql, query, limit)
    return found


def quoted(words: str, joint: str = " ") -> str:
    return joint.join(f'"{word}"' for word in re.findall(r"\w+", words))


def search_raw(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, words + "*", limit) if words.strip() else []


def search_like(self: Any, words: str, limit: int = 50) -> list[Row]:
    sql = f"SELECT {COLUMNS}, words.text AS snippet {JOINED} WHERE words.text LIKE ? LIMIT ?"
    found: list[Row] = self.rows(sql, f"%{words}%", limit) if words.strip("* ") else []
    return found


def search_any(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, quoted(words, " OR ") + "*", limit) if quoted(words) else []


def search_whole_words(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, quoted(words), limit) if quoted(words) else []


def search_unmarked(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, quoted(words) + "*", limit, "words.text AS snippet") if quoted(words) else []


def search_unordered(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, quoted(words) + "*", limit, order="messages.id") if quoted(words) else []


def search_newest(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, quoted(words) + "*", limit, order="messages.created DESC") if quoted(words) else []


def search_with_the_chats_time(self: Any, words: str, limit: int = 50) -> list[Row]:
    times = {one["id"]: one["created"] for one in self.rows("SELECT id, created FROM chats")}
    return [{**one, "created": times[one["chat"]]} for one in search_otherwise(self, words, limit)]


def search_without_words(self: Any, words: str, limit: int = 50) -> list[Row]:
    parts = [part.replace('"', '""') for part in words.split()]
    return matched(self, " ".join(f'"{part}"' for part in parts) + "*", limit)


def search_single_quotes(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, " ".join(f'"{part}"' for part in words.split()) + "*", limit)


def search_everything(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, quoted(words) + "*", limit) if quoted(words) else matched(self, "zeppelin", limit)


def search_unlimited(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, quoted(words) + "*", 1000) if quoted(words) else []


def search_pairs_only(self: Any, words: str, limit: int = 50) -> list[Row]:
    found = search_otherwise(self, words, limit)
    return [{**one, "opens": one["opens"] if one["opens"] != one["chat"] else None} for one in found]


def search_one_phrase(self: Any, words: str, limit: int = 50) -> list[Row]:
    phrase = words.replace('"', '""')
    return matched(self, f'"{phrase}"*', limit) if re.search(r"\w", words) else []


def search_all_unfinished(self: Any, words: str, limit: int = 50) -> list[Row]:
    return matched(self, " ".join(f'"{word}"*' for word in re.findall(r"\w+", words)), limit) if quoted(words) else []


def search_ambiguous(self: Any, words: str, limit: int = 50) -> list[Row]:
    found: list[Row] = self.rows(f"SELECT id {JOINED} WHERE words MATCH ?", quoted(words) + "*")
    return found


def search_otherwise(self: Any, words: str, limit: int = 50) -> list[Row]:
    found = re.findall(r"\w+", words)
    terms = [f'"{word}"*' if place == len(found) - 1 else f'"{word}"' for place, word in enumerate(found)]
    return matched(self, " AND ".join(terms), limit) if terms else []


def one_vector(free: int, parallel: int, layers: int, heads: int, kv_heads: int, head_dim: int, value: int) -> int:
    return free // (parallel * layers * kv_heads * head_dim * value)


def one_seat(free: int, parallel: int, layers: int, heads: int, kv_heads: int, head_dim: int, value: int) -> int:
    return free // (2 * layers * kv_heads * head_dim * value)


def all_heads(free: int, parallel: int, layers: int, heads: int, kv_heads: int, head_dim: int, value: int) -> int:
    return free // (parallel * 2 * layers * heads * head_dim * value)


def a_part(free: int, parallel: int, layers: int, heads: int, kv_heads: int, head_dim: int, value: int) -> float:
    return free / (parallel * 2 * layers * kv_heads * head_dim * value)


def context_otherwise(
    free: int, parallel: int, layers: int, heads: int, kv_heads: int, head_dim: int, value: int
) -> int:
    per_token = 2 * value * head_dim * kv_heads * layers
    return int(free // per_token // parallel)


def module(name: str, *wrong: tuple[str, str]) -> list[tuple[str, Any]]:
    return [(hint, Module(name, text)) for hint, text in wrong]


ANSWERS = {
    "whole_lines": [
        ("is not whole", splits_lines),
        ("splitlines() ends a line at", splits_at_returns),
        ("Yours keeps it", keeps_newlines),
        ("Don't decode it", drops_half_characters),
        ("Lines stay bytes", as_text),
        ("leave it out", with_empty),
        ("would be lost", drops_rest),
        ("other lines come out", strips_rest),
        ("Return two values", lines_alone),
        ("its separators are bytes", text_separator),
    ],
    "stop": [
        ("The engine goes on", state_only),
        ("self.task must stay", stop_without_task),
        ("The note was lost", stop_without_note),
        ("comes after the end", stop_always),
        ("so look at the state", stop_while_it_is_saved),
        ("before the answer began changed its state", stop_marks_what_has_not_begun),
        ("must not be `async`", stop_async),
        ("before it has a task", stop_before_start),
    ],
    "lines": module(
        "lines",
        ("don't wait for the end", WHOLE_TEXT),
        ("a character was cut in two", NO_STREAM),
        ("A block may hold many lines", BLOCK_IS_LINE),
        ("keep its beginning for the next block", NO_REST),
        ("The stream's last line has no newline", LAST_LOST),
        ("An empty line is no object", EMPTY_LINE),
        ("the connection stayed open", STAYS_OPEN),
        ("let the error pass", SWALLOWS),
        ("It yields a text", TEXTS),
        ("failed: TypeError", THROWS),
        ("exports no function lines", NOT_EXPORTED),
    ),
    "pacer": module(
        "pacer",
        ("before a frame came", AT_ONCE),
        ("before a frame came", TIMER),
        ("a frame of its own", FRAME_EACH),
        ("render ran three times", EACH_IN_ITS_FRAME),
        ("only 'c' was rendered", NEWEST_ONLY),
        ("nothing was rendered any more", ONE_FRAME),
        ("rendered twice", NEVER_EMPTIED),
        ("called with no text", RENDERS_NOTHING),
        ("flush renders at once", FLUSH_LATER),
        ("After a flush nothing was rendered", STUCK_AFTER_FLUSH),
        ("was lost", LOST_WITHIN),
        ("no frame was asked for it", FORGOTTEN_TOO_LATE),
        ("in every frame, for ever", FOR_EVER),
        ("{add, flush}", ONLY_ADD),
    ),
    "refusal": [
        ("DNS rebinding", origin_only),
        ("look at Origin", host_only),
        ("sends no Origin, and may", origin_needed),
        ("Compare the whole text", origin_contains),
        ("Origin `null`", null_passes),
        ("marks it in Sec-Fetch-Site", no_fetch_site),
        ("A link on another page", no_links),
        ("A form of another page", links_first),
        ("because the mode is `navigate`", links_to_any_host),
        ("The whole Host must be one of", part_of_the_host),
        ("with status 400", another_status),
        ("Return a WebError", says_false),
    ],
    "search": [
        ("Quote each word", search_raw),
        ("all of the words", search_any),
        ("may be unfinished", search_whole_words),
        ("enclosed by", search_unmarked),
        ("ORDER BY rank", search_unordered),
        ("ORDER BY rank", search_newest),
        ("the message's own time", search_with_the_chats_time),
        ("nothing to search", search_without_words),
        ("must be doubled", search_single_quotes),
        ("nothing to find", search_everything),
        ("the most rows", search_unlimited),
        ("none of a pair", search_pairs_only),
        ("MATCH finds ü by u", search_like),
        ("quote each for itself", search_one_phrase),
        ("Only the last word may be unfinished", search_all_unfinished),
        ("(ambiguous column name: id).", search_ambiguous),
    ],
    "largest_context": [
        ("a key and a value", one_vector),
        ("a context of its own", one_seat),
        ("several heads share one", all_heads),
        ("rounded down", a_part),
    ],
}
RIGHT = {
    "whole_lines": lines_otherwise,
    "stop": stop_otherwise,
    "lines": Module("lines", BODY_LOOP),
    "pacer": Module("pacer", LIST_OF_PIECES),
    "refusal": refusal_otherwise,
    "search": search_otherwise,
    "largest_context": context_otherwise,
}

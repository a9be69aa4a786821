"""The exercises `refusal`, which keeps other web pages out, and `search`, the full-text search of the history."""

import random
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers

from shared.course import registry, starter
from shared.course.exercise import Exercise, Function, Wrong

LAB = registry.find_lab("3.3.6")
ROW = {"id", "chat", "opens", "title", "role", "created", "snippet"}


def refusal(f: Function) -> None:
    port = random.randrange(3000, 9000)
    ours = f"127.0.0.1:{port}"
    hosts = {ours, f"localhost:{port}", f"[::1]:{port}"}

    def refused(**headers: str) -> bool:
        got = f(Headers({name.replace("_", "-"): value for name, value in headers.items()}), hosts)
        if got is not None and getattr(got, "status", None) != 403:
            status = f" with status {got.status}" if hasattr(got, "status") else ""
            raise Wrong(
                f"Return a WebError with status 403, or None for what may pass; yours returned {got!r}{status}."
            )
        return got is not None

    def same(host: str) -> dict[str, str]:
        return {"host": host, "origin": f"http://{host}", "sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}

    if any(refused(**same(host)) for host in hosts):
        raise Wrong("The server's own page was refused. Its Origin is http:// and the Host that it was opened by.")
    if refused(host=ours):
        raise Wrong("A program of this machine (curl, Python) sends no Origin, and may use the server.")
    if not refused(host=ours, origin="https://evil.example", sec_fetch_site="cross-site", sec_fetch_mode="cors"):
        raise Wrong("A page of evil.example sent this, through its visitor's browser: look at Origin.")
    posted = {"origin": "https://evil.example", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    if not refused(host=ours, **posted):
        raise Wrong(
            "A form of another page was posted, and it passed. The browser goes to the answer as to a link, so "
            "the mode is `navigate` here, too. Origin names the other page: look at it first."
        )
    if not refused(host=ours, origin="null"):
        raise Wrong("The Origin `null` passed. A page in a sandbox sends it, and that page is not ours.")
    for origin in (f"http://{ours}.evil.example", f"http://evil.example/?{ours}", f"http://127.0.0.1:{port + 1}"):
        if not refused(host=ours, origin=origin):
            raise Wrong(f"The Origin {origin} passed. Compare the whole text: a part of it is easily forged.")
    for host in (f"evil.example:{port}", "evil.example", f"{ours}.evil.example"):
        if not refused(**same(host)):
            raise Wrong(
                f"Host: {host} passed. After DNS rebinding, Origin and Host agree, and neither is this server: look "
                "whether the Host is one of `hosts`."
            )
        if not refused(host=host):
            raise Wrong(
                f"Host: {host} without an Origin passed: a page that was rebound sends no Origin with a GET. The whole "
                "Host must be one of `hosts`."
            )
        if not refused(host=host, sec_fetch_site="none", sec_fetch_mode="navigate"):
            raise Wrong(f"Host: {host} passed, because the mode is `navigate`. A wrong Host is always refused.")
    if not refused():
        raise Wrong("A request without a Host passed.")
    if not refused(host=ours, sec_fetch_site="cross-site", sec_fetch_mode="no-cors"):
        raise Wrong(
            "A GET of another page (an <img>, a <script>) has no Origin. The browser marks it in Sec-Fetch-Site."
        )
    if refused(host=ours, sec_fetch_site="cross-site", sec_fetch_mode="navigate"):
        raise Wrong("A link on another page may open ours: its Sec-Fetch-Mode is `navigate`.")


MESSAGES = (
    ("user", "Where did the dirigible land?"),
    ("assistant", "The zeppelin landed in Zürich. " + "It was a long way over the lake. " * 30 + "Then it left."),
    ("user", "zeppelin zeppelin zeppelin"),
    ("user", "Say \"a AND b\", 100 %, 'quoted'; NEAR the lake."),
    ("assistant", "An airship has a frame. " * 20 + "A zeppelin is one."),  # the newest match is not the best
)
ODD = ("lake AND", "NEAR(", "*", "title:x", "^x", "-lake", "(", "' OR 1 --", "%", "\\", "a-b", '"')


def search(f: Function) -> None:
    with starter.installed(LAB, SEARCH, f) as package, tempfile.TemporaryDirectory() as folder:
        history = package["history"].History(Path(folder, "history.sqlite"))
        try:
            searched(history)
        finally:
            history.close()


def searched(history: Any) -> None:
    chat = history.new_chats(["ollama:x", "ollama:y"], "", {}) + 1  # the right one of a pair
    parent, ids = None, []
    for role, text in MESSAGES:
        parent = history.add(chat, parent, role, text)
        ids.append(parent)

    def found(words: str, *more: int) -> list[dict[str, Any]]:
        try:
            return list(history.search(words, *more))
        except sqlite3.Error as e:
            fix = "" if words.isalpha() else " Quote each word: none of its characters is an operator."
            if not words.strip():
                fix = " Without a word there is nothing to search: return []."
            elif '"' in words and "unterminated" in str(e):
                fix = " Inside quotes a quote must be doubled, or left out."
            raise Wrong(f"The search for {words} failed ({e}).{fix}") from None

    def hits(words: str) -> set[int]:
        return {ids.index(one["id"]) for one in found(words)}

    first = found("zeppelin")
    if not first:
        raise Wrong("The word zeppelin is in several messages, and none was found. `words` is the table to search.")
    if missing := ROW - set(first[0]):
        raise Wrong(f"A row lacks {', '.join(sorted(missing))}.")
    if (first[0]["chat"], first[0]["opens"]) != (chat, chat - 1):
        raise Wrong("`opens` is the chat that the page shows: for one of a pair, the pair's id.")
    alone = history.new_chats(["ollama:x"], "", {})
    history.add(alone, None, "user", "A caravel sails alone.")
    if [one["opens"] for one in found("caravel")] != [alone]:
        raise Wrong("`opens` of a chat that is none of a pair is this chat: `pair` is NULL there.")
    for words in ODD:
        found(words)
    if found("") or found("  ") or found("*"):
        raise Wrong("Without a word there is nothing to find.")
    if not hits("landed zeppelin") and hits("in zurich"):
        raise Wrong(
            "Nothing was found for landed zeppelin, although a message has both words. Quotes around all words ask for "
            "these words side by side: quote each for itself."
        )
    if hits("zeppelin zurich") != {1}:
        both = "A message must have all of the words." if hits("zeppelin zurich") else "MATCH finds ü by u."
        raise Wrong(f"For zeppelin zurich only the second message is right. {both}")
    if hits("zep zurich"):
        raise Wrong("zep zurich found zeppelin. Only the last word may be unfinished.")
    if 1 not in hits("ZEPPE"):
        raise Wrong("The last word may be unfinished: ZEPPE finds zeppelin. In FTS5 a * after the word does that.")
    if hits("epp"):
        raise Wrong("epp found zeppelin. A word is found from its beginning: that is what the index is made for.")
    snippets = {ids.index(one["id"]): one["snippet"] for one in first}
    if "\x01zeppelin\x02" not in snippets[1]:
        raise Wrong("A hit is enclosed by \\x01 and \\x02, so that the page can mark it without HTML.")
    if len(snippets[1]) > 300:
        raise Wrong("A snippet is a part of the text around the hit. Yours is the whole message.")
    if sorted(one["id"] for one in first) != [ids[1], ids[2], ids[4]] or first[0]["id"] != ids[2]:
        raise Wrong("The best match comes first: ORDER BY rank.")
    [written] = history.rows("SELECT created FROM messages WHERE id = ?", ids[2])
    if first[0]["created"] != written["created"]:
        raise Wrong("`created` is the message's own time. A chat has one, too.")
    if len(found("zeppelin", 1)) != 1:
        raise Wrong("`limit` is the most rows that are wanted.")


REFUSAL = Exercise(
    "refusal", "exercise-refusal", 2, 3, 12,
    "A web page elsewhere can't use your models or read your chats, although your browser can.",
    (
        "Which header names the page that sends a request? Which one names the server that it asks?",
        "Host must be one of `hosts`; Origin must be missing, or http:// and that host.",
        "What is left is a GET without Origin: sec-fetch-site is cross-site, and sec-fetch-mode is not navigate.",
    ),
    refusal, "webui/guard.py",
)  # fmt: skip
SEARCH = Exercise(
    "search", "exercise-search", 2, 1, 10,
    "Years of chats are searched while you type, and what you type is never a command.",
    (
        "What does FTS5 take for an operator? What does a text in quotes mean to it?",
        "re.findall(r\"\\w+\", words) gives the words; quote each, and put * after the last one.",
        "snippet(words, 0, char(1), char(2), '…', 16) makes the snippet; messages.id is the rowid of `words`.",
    ),
    search, "webui/history.py", "History",
)  # fmt: skip

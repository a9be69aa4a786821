"""Chats and messages in one SQLite file, with full-text search.

The messages of a chat are a tree. An edited question is a sibling of the old one, and so is a regenerated answer: no
version is lost. `chats.leaf` names the last message of the version on the screen; its path is the way up to the root.
"""

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from webui.errors import WebError

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS chats (
    id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, pair INTEGER, target TEXT NOT NULL,
    system TEXT NOT NULL, parameters TEXT NOT NULL, leaf INTEGER, created REAL NOT NULL, changed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, chat INTEGER NOT NULL REFERENCES chats ON DELETE CASCADE, parent INTEGER,
    role TEXT NOT NULL, text TEXT NOT NULL, thinking TEXT NOT NULL DEFAULT '', target TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'done', note TEXT NOT NULL DEFAULT '', stats TEXT NOT NULL DEFAULT '{}',
    created REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_parent ON messages (chat, parent);
CREATE TABLE IF NOT EXISTS prompts (name TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');
CREATE TRIGGER IF NOT EXISTS forget AFTER DELETE ON messages BEGIN DELETE FROM words WHERE rowid = old.id; END;
"""
PATH = """
WITH RECURSIVE up (id, parent, depth) AS (
    SELECT id, parent, 0 FROM messages WHERE id = ?
    UNION ALL SELECT m.id, m.parent, depth + 1 FROM up JOIN messages m ON m.id = up.parent WHERE depth + 1 < ?)
SELECT messages.*, (SELECT group_concat(id) FROM messages s
    WHERE s.chat = messages.chat AND s.parent IS messages.parent) AS versions
FROM up JOIN messages USING (id) ORDER BY depth DESC
"""
LOST = "The server ended while this answer was written. What had come is kept. Press Regenerate for a whole answer."
Row = dict[str, Any]


class History:
    """The history file. Its methods are quick and may be called from any thread."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lock = threading.Lock()
        self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA foreign_keys = ON")
        self.db.executescript(SCHEMA)
        file.chmod(0o600)
        self.db.execute("""UPDATE words SET text = (SELECT text FROM messages WHERE id = words.rowid)
            WHERE rowid IN (SELECT id FROM messages WHERE state = 'running')""")
        self.db.execute("UPDATE messages SET state = 'lost', note = ? WHERE state = 'running'", (LOST,))

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or nothing."""
        with self.lock:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[Row]:
        with self.lock:
            return [plain(row) for row in self.db.execute(query, values)]

    def chats(self) -> list[Row]:
        """All chats, the newest first; of a pair only the left one."""
        return self.rows(
            "SELECT * FROM chats WHERE pair IS NULL OR pair = id ORDER BY changed DESC, id DESC LIMIT 5000"
        )

    def lanes(self, chat: int) -> list[Row]:
        """The chat, or both chats of its pair."""
        found = self.rows("SELECT * FROM chats WHERE id = ?1 OR pair = ?1 ORDER BY id", chat)
        if not found:
            raise WebError(404, "This chat does not exist any more.", "Choose another one.")
        return found

    def new_chats(self, targets: list[str], system: str, parameters: Row, title: str = "New chat") -> int:
        """One chat, or a pair that is asked the same. Returns the id of the first."""
        with self.change() as db:
            ids = []
            for target in targets:
                values = (title, target, system, json.dumps(parameters), time.time(), time.time())
                columns = "title, target, system, parameters, created, changed"
                ids.append(db.execute(f"INSERT INTO chats ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid)
            if len(ids) > 1:
                db.execute(f"UPDATE chats SET pair = ? WHERE id IN ({','.join('?' * len(ids))})", (ids[0], *ids))
        return int(ids[0] or 0)

    def change_chat(self, chat: int, **fields: Any) -> None:
        """Set columns of a chat: title, target, system, parameters, leaf."""
        fields = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in fields.items()}
        with self.change() as db:
            db.execute(
                f"UPDATE chats SET {', '.join(f'{k} = ?' for k in fields)} WHERE id = ?", (*fields.values(), chat)
            )

    def delete_chat(self, chat: int) -> None:
        """Delete the chat, or both chats of its pair."""
        with self.change() as db:
            db.execute("DELETE FROM chats WHERE id = ?1 OR pair = ?1", (chat,))

    def path(self, leaf: int | None, limit: int) -> list[Row]:
        """The messages from the root to this one, or the last `limit` of them."""
        return self.rows(PATH, leaf, limit) if leaf else []

    def message(self, message: int) -> Row:
        found = self.rows(PATH, message, 1)
        if not found:
            raise WebError(404, "This message does not exist any more.", "Reload the page.")
        return found[0]

    def add(self, chat: int, parent: int | None, role: str, text: str, target: str = "", state: str = "done") -> int:
        """Add a message below `parent` and make it the chat's leaf. Raises WebError for another chat's parent."""
        if parent is not None and self.message(parent)["chat"] != chat:
            raise WebError(400, "This message belongs to another chat.", "Reload the page.")
        with self.change() as db:
            values = (chat, parent, role, text, target, state, time.time())
            columns = "chat, parent, role, text, target, state, created"
            new = db.execute(f"INSERT INTO messages ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values).lastrowid
            db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (new, text))
            db.execute("UPDATE chats SET leaf = ?, changed = ? WHERE id = ?", (new, time.time(), chat))
            if role == "user":  # the title is the first question: asking a model for one would be a hidden request
                title = " ".join(text.split())[:80]
                db.execute("UPDATE chats SET title = ? WHERE id = ? AND title = 'New chat'", (title, chat))
        return int(new or 0)

    def save(
        self, message: int, text: str, thinking: str, state: str, note: str = "", stats: Row | None = None
    ) -> None:
        """Save an answer. Its words can be searched once it has ended.

        One that has ended stays as it is: a save that `stop` overtakes runs on in its thread, and may come last.
        """
        with self.change() as db:
            values = (text, thinking, state, note, json.dumps(stats or {}), message)
            columns = "text = ?, thinking = ?, state = ?, note = ?, stats = ?"
            known = db.execute(f"UPDATE messages SET {columns} WHERE id = ? AND state = 'running'", values).rowcount
            if known and state != "running":
                db.execute("UPDATE words SET text = ? WHERE rowid = ?", (text, message))

    def newest_below(self, message: int) -> int:
        """The leaf of the version that this message begins: always the newest child."""
        below = """WITH RECURSIVE down (id) AS (
            SELECT ?1 UNION ALL
            SELECT (SELECT max(m.id) FROM messages m WHERE m.chat = (SELECT chat FROM messages WHERE id = ?1)
                AND m.parent = down.id) FROM down WHERE down.id IS NOT NULL)
        SELECT max(id) AS leaf FROM down"""
        return int(self.rows(below, message)[0]["leaf"])

    def search(self, words: str, limit: int = 50) -> list[Row]:
        """Messages with all these words (the last may be unfinished), best first.

        The FTS5 table `words` holds the texts. Its rowid is the id of a message. If `words` holds no word, nothing is
        found.

        A row has the message's id, role and created; its chat, that chat's title, and `opens`, the chat that the page
        shows (the left one of a pair); and a snippet of about 16 words, in which \\x01 and \\x02 enclose a hit.
        """
        # TODO: quote each word, so that none of its characters is an operator of FTS5
        raise NotImplementedError("history: quote each word, so that none of its characters is an operator of FTS5")

    def prompts(self) -> list[Row]:
        """The saved system prompts."""
        return self.rows("SELECT * FROM prompts ORDER BY name")

    def save_prompt(self, name: str, text: str) -> None:
        """Save a system prompt under a name; an empty text removes it."""
        with self.change() as db:
            db.execute("DELETE FROM prompts WHERE name = ?", (name,))
            if text:
                db.execute("INSERT INTO prompts VALUES (?, ?)", (name, text))

    def close(self) -> None:
        with self.lock:
            self.db.close()


def plain(row: sqlite3.Row) -> Row:
    """A row as the page gets it: JSON columns decoded, versions as a list of ids in their order."""
    found = dict(row)
    for name in ("parameters", "stats"):
        if name in found:
            found[name] = json.loads(found[name])
    if "versions" in found:
        found["versions"] = sorted(map(int, found["versions"].split(",")))
    return found

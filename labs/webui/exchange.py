"""Chats as files: Markdown to read, JSON to keep and to import."""

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from webui.errors import WebError
from webui.history import History, Row
from webui.parameters import Parameters
from webui.settings import Settings

ALL = 1_000_000
MOST_QUESTION = 2**20  # characters
CREATED = Field(default=None, ge=0, le=1e11)  # seconds since 1970
HALF = "The chat was exported while this answer was written."


class Part(BaseModel):
    """A part of a file. Unknown fields are ignored, so that newer files can be read."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Figures(Part):
    """What was measured of an answer, by the engine or here."""

    ttft_ms: float | None = None
    total_ms: float | None = None
    load_ms: float | None = None
    prompt_ms: float | None = None
    tok_s: float | None = None
    timed_here: bool | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    context_length: int | None = None


class FileMessage(Part):
    """One message of an exported chat. An answer is as long as the engine made it; only the whole file has a limit."""

    role: Literal["user", "assistant"]
    text: str
    thinking: str = ""
    target: str = Field(default="", max_length=300)
    state: Literal["running", "done", "stopped", "failed", "lost"] = "done"
    note: str = ""
    stats: Figures = Figures()
    created: float | None = CREATED
    parent: int | None = -1  # its place in the list, None for none; -1: the message before

    @model_validator(mode="after")
    def question_has_a_limit(self) -> "FileMessage":
        if self.role == "user" and len(self.text) > MOST_QUESTION:
            raise ValueError(f"A question of {len(self.text):,} characters is longer than {MOST_QUESTION:,}")
        return self


class FileChat(Part):
    """One exported chat with all versions."""

    title: str = Field(max_length=300)
    target: str = Field(default="", max_length=300)
    system: str = Field(default="", max_length=2**18)
    parameters: Parameters = Parameters()
    created: float | None = CREATED
    pair: int | None = None  # the place of the left chat in the file, if two were asked the same
    leaf: int = -1  # the place of the last message on the screen
    messages: list[FileMessage]


class File(Part):
    """A whole export."""

    format: Literal["inference-labs-webui/1"]
    chats: list[FileChat]


def as_json(history: History, chats: list[Row]) -> Row:
    """The chats as a file that `load` accepts."""
    out = []
    places = {chat["id"]: place for place, chat in enumerate(chats)}
    for chat in chats:
        messages = history.rows("SELECT * FROM messages WHERE chat = ? ORDER BY id", chat["id"])
        place_of = {one["id"]: place for place, one in enumerate(messages)}
        for one in messages:
            one["parent"] = place_of.get(one["parent"])
        keep = {name: chat[name] for name in ("title", "target", "system", "parameters", "created")}
        place = {"pair": places.get(chat["pair"]), "leaf": place_of.get(chat["leaf"], -1)}
        fields = ("role", "text", "thinking", "target", "state", "note", "stats", "created", "parent")
        out.append({**keep, **place, "messages": [{name: one[name] for name in fields} for one in messages]})
    return {"format": "inference-labs-webui/1", "chats": out}


def as_markdown(history: History, chats: list[Row]) -> str:
    """The chats to read. Each message keeps its own Markdown."""
    parts = []
    for chat in chats:
        parts.append(f"# {chat['title']}\n\n{chat['target']} · {day(chat['created'])}\n")
        if chat["system"]:
            parts.append(f"> System prompt: {chat['system'].replace(chr(10), chr(10) + '> ')}\n")
        for one in history.path(chat["leaf"], ALL):
            who = "You" if one["role"] == "user" else one["target"]
            note = f"\n\n*{one['note']}*" if one["note"] else ""
            parts.append(f"## {who}\n\n{one['text']}{note}\n")
    return "\n".join(parts)


def day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def load(history: History, data: dict[str, Any], settings: Settings) -> int:
    """Add the chats of an exported file, all or none. Returns how many. Raises WebError or ValidationError."""
    file = File.model_validate(data)
    count = sum(len(chat.messages) for chat in file.chats)
    if count > settings.most_import_messages:
        most = settings.most_import_messages
        raise WebError(413, f"The file has {count:,} messages, more than {most:,}.", "Import it in parts.")
    now, ids = time.time(), []
    with history.change() as db:
        for chat in file.chats:
            parameters = chat.parameters.model_dump_json(exclude_none=True)
            values = (chat.title, chat.target, chat.system, parameters, chat.created or now, now)
            columns = "title, target, system, parameters, created, changed"
            new = db.execute(f"INSERT INTO chats ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid
            ids.append(new)
            known: list[int | None] = []
            for one in chat.messages:
                state, note = ("stopped", HALF) if one.state == "running" else (one.state, one.note)
                stats, parent = one.stats.model_dump_json(exclude_none=True), place_in(known, one.parent)
                message = (new, parent, one.role, one.text, one.thinking, one.target, state, note, stats)
                columns = "chat, parent, role, text, thinking, target, state, note, stats, created"
                query = f"INSERT INTO messages ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                made = db.execute(query, (*message, one.created or now)).lastrowid
                db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (made, one.text))
                known.append(made)
            db.execute("UPDATE chats SET leaf = ? WHERE id = ?", (place_in(known, chat.leaf), new))
        for new, chat in zip(ids, file.chats, strict=True):
            place = chat.pair if chat.pair is not None and 0 <= chat.pair < len(ids) else None
            if place is not None and file.chats[place].pair == place:  # else the chat stands alone
                db.execute("UPDATE chats SET pair = ? WHERE id = ?", (ids[place], new))
    return len(file.chats)


def place_in(known: list[int | None], place: int | None) -> int | None:
    """The id at this place of what is known so far, -1 for the last. Raises WebError for a place that isn't there."""
    if place is None or (place == -1 and not known):
        return None
    if not -1 <= place < len(known):
        raise WebError(422, f"The file names the place {place}, where nothing is.", "Export the chats again.")
    return known[place]

"""Chats as files: Markdown to read, JSON to keep and to import."""

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from webui.errors import WebError
from webui.history import History, Row
from webui.parameters import Parameters
from webui.settings import Settings

ALL = 1_000_000


class FileMessage(BaseModel):
    """One message of an exported chat. Unknown fields are ignored, so that newer files can be read."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["user", "assistant"]
    text: str = Field(max_length=2**20)
    thinking: str = Field(default="", max_length=2**20)
    target: str = Field(default="", max_length=300)


class FileChat(BaseModel):
    """One exported chat: the version that was on the screen."""

    model_config = ConfigDict(extra="ignore")
    title: str = Field(max_length=300)
    target: str = Field(default="", max_length=300)
    system: str = Field(default="", max_length=2**18)
    parameters: Parameters = Parameters()
    messages: list[FileMessage]


class File(BaseModel):
    """A whole export."""

    model_config = ConfigDict(extra="ignore")
    format: Literal["inference-labs-webui/1"]
    chats: list[FileChat]


def as_json(history: History, chats: list[Row]) -> Row:
    """The chats as a file that `load` accepts."""
    out = []
    for chat in chats:
        keep = {name: chat[name] for name in ("title", "target", "system", "parameters", "created")}
        fields = ("role", "text", "thinking", "target", "state", "note", "stats", "created")
        messages = [{name: one[name] for name in fields} for one in history.path(chat["leaf"], ALL)]
        out.append({**keep, "messages": messages})
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
    now = time.time()
    with history.change() as db:
        for chat in file.chats:
            values = (
                chat.title,
                chat.target,
                chat.system,
                chat.parameters.model_dump_json(exclude_none=True),
                now,
                now,
            )
            columns = "title, target, system, parameters, created, changed"
            new = db.execute(f"INSERT INTO chats ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid
            leaf = None
            for one in chat.messages:
                message = (new, leaf, one.role, one.text, one.thinking, one.target, now)
                columns = "chat, parent, role, text, thinking, target, created"
                leaf = db.execute(f"INSERT INTO messages ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", message).lastrowid
                db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (leaf, one.text))
            db.execute("UPDATE chats SET leaf = ? WHERE id = ?", (leaf, new))
    return len(file.chats)

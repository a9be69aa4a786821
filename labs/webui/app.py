"""The routes: the page, chats and their answers. The routes of models are in `model_routes.py`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from webui import exchange
from webui.answers import Answers
from webui.engines import Engines
from webui.errors import WebError
from webui.guard import Guard, own_hosts
from webui.history import History
from webui.manager import Manager
from webui.model_routes import model_routes
from webui.parameters import Parameters
from webui.settings import Settings

STATIC = Path(__file__).parent / "static"
TARGET = Field(min_length=1, max_length=300)
TEXT = Field(min_length=1, max_length=2**18)
SYSTEM = Field(default="", max_length=2**16)


class Body(BaseModel):
    """What a page sends. An unknown field is a mistake."""

    model_config = ConfigDict(extra="forbid")


class NewChat(Body):
    targets: list[str] = Field(min_length=1, max_length=2)
    system: str = SYSTEM
    parameters: Parameters = Parameters()


class ChangedChat(Body):
    title: str | None = Field(default=None, min_length=1, max_length=300)
    target: str | None = Field(default=None, min_length=1, max_length=300)
    system: str | None = Field(default=None, max_length=2**16)
    parameters: Parameters | None = None


class Question(Body):
    text: str = TEXT
    instead_of: int | None = None  # an edited question replaces this one


class Which(Body):
    message: int


class Prompt(Body):
    name: str = Field(min_length=1, max_length=100)
    text: str = SYSTEM


class Lines(Response):
    """A stream of JSON lines. It ends at once when the browser has gone, also while there is nothing to send."""

    def __init__(self, events: AsyncGenerator[Any, None]) -> None:
        super().__init__(media_type="application/x-ndjson", headers={"cache-control": "no-store"})
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def write() -> None:
            async with contextlib.aclosing(self.events):  # so that its `finally` runs now: a page less listens
                async for event in self.events:
                    await send({"type": "http.response.body", "body": orjson.dumps(event) + b"\n", "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = [asyncio.create_task(write()), asyncio.create_task(gone())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also when the server ends
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make_app(settings: Settings) -> Guard:
    """The server with these settings."""
    history = History(settings.data / "history.sqlite")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # No limit on connections, and no proxy between this machine and itself.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            app.state.answers = Answers(settings, history, Engines(settings, session))
            app.state.manager = Manager(settings, session)
            yield
            await app.state.answers.end()
            await app.state.manager.end()
        history.close()

    app = FastAPI(title="Chat", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    def answers() -> Answers:
        found: Answers = app.state.answers
        return found

    def shown(chat: int, before: int | None = None, at: int | None = None, limit: int = 30) -> Any:
        """The lanes of a chat, each with the last messages of its path, those before a message, or those around one."""
        lanes = history.lanes(chat)
        for lane in lanes:
            leaf = history.message(before)["parent"] if before is not None else lane["leaf"]
            found = history.path(leaf, limit + 1 if at is None else exchange.ALL)
            end = next((place for place, one in enumerate(found) if one["id"] == at), len(found)) + limit // 2
            lane["messages"], lane["more"] = found[:end][-limit:], len(found[:end]) > limit
            lane["later"] = end < len(found)
        return {"lanes": lanes}

    @app.get("/")
    def page() -> Response:
        return FileResponse(STATIC / "index.html")

    @app.get("/api/chats")
    def chats() -> Any:
        return {"chats": history.chats(), "running": [answer.entry for answer in answers().running.values()]}

    @app.post("/api/chats")
    def new_chat(asked: NewChat) -> Any:
        return shown(history.new_chats(asked.targets, asked.system, asked.parameters.model_dump(exclude_none=True)))

    @app.get("/api/chats/{chat}")
    def one_chat(chat: int, before: int | None = None, at: int | None = None) -> Any:
        return shown(chat, before, at)

    @app.patch("/api/chats/{chat}")
    def change_chat(chat: int, asked: ChangedChat) -> Any:
        if fields := asked.model_dump(exclude_none=True):
            history.change_chat(chat, **fields)
        return shown(chat)

    @app.delete("/api/chats/{chat}")
    async def delete_chat(chat: int) -> Any:
        lanes = await asyncio.to_thread(history.lanes, chat)
        for answer in answers().of_chats([lane["id"] for lane in lanes]):
            answer.stop()
        await asyncio.to_thread(history.delete_chat, chat)
        return {}

    @app.post("/api/chats/{chat}/messages")
    async def ask(chat: int, asked: Question) -> Any:
        with answers().claim(chat):
            lane = next(lane for lane in await asyncio.to_thread(history.lanes, chat) if lane["id"] == chat)
            parent = lane["leaf"]
            if asked.instead_of is not None:
                parent = (await asyncio.to_thread(history.message, asked.instead_of))["parent"]
            question = await asyncio.to_thread(history.add, chat, parent, "user", asked.text)
            return {"question": question, "answer": await answers().start(lane, question)}

    @app.post("/api/chats/{chat}/regenerate")
    async def regenerate(chat: int, asked: Which) -> Any:
        with answers().claim(chat):
            lane = next(lane for lane in await asyncio.to_thread(history.lanes, chat) if lane["id"] == chat)
            old = await asyncio.to_thread(history.message, asked.message)
            if old["chat"] != chat or old["role"] != "assistant" or old["parent"] is None:
                raise WebError(400, "This message is no answer of this chat.", "Reload the page.")
            return {"answer": await answers().start(lane, old["parent"])}

    @app.post("/api/chats/{chat}/switch")
    def switch(chat: int, asked: Which) -> Any:
        if history.message(asked.message)["chat"] != chat:
            raise WebError(400, "This message belongs to another chat.", "Reload the page.")
        history.change_chat(chat, leaf=history.newest_below(asked.message))
        return shown(chat)

    @app.get("/api/answers/{message}/events")
    async def events(message: int) -> Response:
        if message not in answers().running:
            await asyncio.to_thread(history.message, message)  # raises while a status can still be sent
        return Lines(answers().events(message))

    @app.post("/api/answers/{message}/stop")
    async def stop(message: int) -> Any:
        return {"stopped": answers().stop(message)}

    @app.get("/api/search")
    def search(q: str = "") -> Any:
        return {"found": history.search(q[:500])}

    @app.get("/api/prompts")
    def prompts() -> Any:
        return {"prompts": history.prompts()}

    @app.put("/api/prompts")
    def save_prompt(asked: Prompt) -> Any:
        history.save_prompt(asked.name, asked.text)
        return {"prompts": history.prompts()}

    @app.get("/api/export")
    def export(chat: int | None = None, form: str = "json") -> Response:
        found = history.lanes(chat) if chat is not None else history.rows("SELECT * FROM chats ORDER BY id")
        kind, name = ("md", exchange.as_markdown) if form == "md" else ("json", exchange.as_json)
        content = name(history, found)
        headers = {"content-disposition": f'attachment; filename="chat{"s" if chat is None else f"-{chat}"}.{kind}"'}
        if isinstance(content, str):
            return PlainTextResponse(content, headers=headers, media_type="text/markdown")
        return JSONResponse(content, headers=headers)

    @app.post("/api/import")
    def load(data: dict[str, Any]) -> Any:
        return {"chats": exchange.load(history, data, settings)}

    @app.exception_handler(WebError)
    async def known(request: Request, error: WebError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def wrong(request: Request, error: RequestValidationError | ValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return WebError(422, f"{place or 'The request'}: {first['msg']}.", "Correct this value.").response()

    @app.exception_handler(OverflowError)
    async def no_such_number(request: Request, error: OverflowError) -> Response:
        return WebError(404, "There is nothing with so large a number.", "Choose a chat of the list.").response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return WebError(error.status_code, str(error.detail), "Reload the page.").response()

    model_routes(app)
    app.mount("/static", StaticFiles(directory=STATIC))
    larger = {"/api/import": settings.most_import_bytes, "/api/uploads": settings.most_upload_bytes}
    return Guard(app, own_hosts(settings.port), settings.most_text_bytes, larger)

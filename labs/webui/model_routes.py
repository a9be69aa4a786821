"""The routes of Ollama's models. Names come in bodies: a name may contain slashes, and a path must not."""

from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from webui.errors import WebError
from webui.manager import Manager, checked_name
from webui.parameters import Parameters


class Named(BaseModel):
    """A model that something is done with."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=500)


class Copied(Named):
    to: str = Field(max_length=500)


class Created(Named):
    source: str = ""  # another model, or
    digest: str = ""  # the hash of an uploaded file
    system: str = Field(default="", max_length=2**16)
    template: str = Field(default="", max_length=2**16)
    parameters: Parameters = Parameters()


def model_routes(app: FastAPI) -> None:
    """Add the routes of models to the app."""

    def manager() -> Manager:
        found: Manager = app.state.manager
        return found

    @app.get("/api/models")
    async def models() -> Any:
        return await manager().models()

    @app.post("/api/models/pull")
    async def pull(asked: Named) -> Any:
        manager().pull(checked_name(asked.name))
        return {}

    @app.post("/api/models/cancel-pull")
    async def cancel_pull(asked: Named) -> Any:
        manager().cancel_pull(asked.name)
        return {}

    @app.post("/api/uploads")
    async def upload(request: Request) -> Any:
        if request.headers.get("content-type") != "application/octet-stream":
            raise WebError(415, "An uploaded file must be application/octet-stream.", "Use the page's own button.")
        return await manager().upload(request.stream())

    @app.post("/api/models/create")
    async def create(asked: Created) -> Any:
        await manager().create({**asked.model_dump(), "parameters": asked.parameters.model_dump(exclude_none=True)})
        return {}

    @app.post("/api/models/show")
    async def show(asked: Named) -> Any:
        found = await manager().call("POST", "/api/show", {"model": checked_name(asked.name)})
        return {name: value for name, value in found.items() if name not in ("tensors", "projector_info")}

    @app.post("/api/models/copy")
    async def copy(asked: Copied) -> Any:
        body = {"source": checked_name(asked.name), "destination": checked_name(asked.to)}
        await manager().call("POST", "/api/copy", body)
        return {}

    @app.post("/api/models/delete")
    async def delete(asked: Named) -> Any:
        await manager().call("DELETE", "/api/delete", {"model": checked_name(asked.name)})
        return {}

    @app.post("/api/models/unload")
    async def unload(asked: Named) -> Any:
        await manager().unload(checked_name(asked.name))
        return {}

"""The student's chat page: the files beside the notebook, with the reference's part for each unfinished exercise.

server = student_webui.start(lab, relay.url)          # run the cell again after a change: it restarts
with student_webui.running(lab, relay.url) as server:
    server.url                                          # open it in a browser
    server.chat_page                                    # for the checks in a browser
with student_webui.plain(relay.url) as server:        # the page that the lab starts from
"""

import atexit
import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared import paths
from shared.course import registry, starter
from shared.course.labs import OpenLab
from shared.course.webui.in_chromium.chat_page import ChatPage
from shared.errors import LabError
from shared.launch.process import Guarded, until_ready
from shared.processes import free_port

READY_WITHIN_S = 60
NAME, PLAIN = "webui", "plain"

_running: dict[str, "PageServer"] = {}  # those of this process by name, so that a cell run twice starts one


@dataclasses.dataclass(frozen=True)
class PageServer:
    """A running server of a chat page."""

    name: str
    chat_page: ChatPage
    log: Path
    process: Guarded
    folder: Path  # its files and its history; removed when it ends

    @property
    def url(self) -> str:
        return self.chat_page.url

    @property
    def made_of(self) -> Mapping[str, Any]:
        """A hash of each file of its code."""
        return self.chat_page.made_of

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        self.process.end()
        shutil.rmtree(self.folder, ignore_errors=True)
        if _running.get(self.name) is self:
            del _running[self.name]


def start(lab: OpenLab, ollama: str, **settings: object) -> PageServer:
    """Start the page with the files as they are on disk now; one that runs already is ended first.

    ollama: the address of Ollama, or of a relay in front of it. `settings` are those of webui/settings.py, such as
    gateway="http://127.0.0.1:8000". Raises LabError, with the last lines of its log, if it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="labs-webui-"))
    package = starter.merge(lab.check.lab, lab.check.use_own(), folder)
    page = ChatPage(NAME, "", ours=True, made_of=starter.code_of(package))
    return serve(page, "webui", folder, package.parent, {"ollama": ollama, "data": folder / "data", **settings})


@contextlib.contextmanager
def running(lab: OpenLab, ollama: str, **settings: object) -> Iterator[PageServer]:
    """The page as `start` starts it, until the end of the block."""
    server = start(lab, ollama, **settings)
    try:
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def plain(ollama: str) -> Iterator[PageServer]:
    """The plain page that the lab starts from, as the lab's authors wrote it, until the end of the block."""
    package = starter.reference_folder(registry.find_lab("3.3.6"))
    page = ChatPage(PLAIN, "", answer="p.assistant", stop="", made_of=starter.code_of(package / "baseline"))
    server = serve(
        page, "webui.baseline", Path(tempfile.mkdtemp(prefix="labs-webui-")), package.parent, {"ollama": ollama}
    )
    try:
        yield server
    finally:
        server.end()


def serve(page: ChatPage, module: str, folder: Path, parent: Path, settings: Mapping[str, object]) -> PageServer:
    """Start `python -m module`, found in `parent`, and wait until its page can be loaded."""
    if page.name in _running:
        _running[page.name].end()
    port, logs = free_port(), paths.cache() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{page.name}-{os.getpid()}.log"
    given = {f"WEBUI_{name.upper()}": str(value) for name, value in {"port": port, **settings}.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEBUI_")}
    command, env = [sys.executable, "-m", module], {"PYTHONPATH": str(parent), **given}
    with log.open("wb") as out:
        process = Guarded(command, out, cwd=folder, env=env, inherited=inherited)
    page = dataclasses.replace(page, url=f"http://127.0.0.1:{port}")
    server = _running[page.name] = PageServer(page.name, page, log, process, folder)
    try:
        until_ready(process, "The page's server", port, "/", log, READY_WITHIN_S)
    except LabError:
        server.end()
        raise
    return server


@atexit.register
def stop_all() -> None:
    """End every server that this process started."""
    for server in list(_running.values()):
        server.end()

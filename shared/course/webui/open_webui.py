"""Open WebUI, started for a lab in front of an engine and set up by its own API.

    webui = open_webui.before(ollama.url)                # started once; later calls return it, in front of theirs
    webui.connect(gateway.url)                           # an OpenAI-compatible server beside Ollama
    webui.url, webui.models(), webui.chat_page           # the last for the checks in a browser

It runs in its own environment (`make open-webui`) under the labs' watchdog, so it ends with the program that started
it. Its database is in a temporary folder. It listens on 127.0.0.1 and looks for nothing on the internet.
"""

import atexit
import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared import paths
from shared.course.webui.in_chromium.chat_page import ChatPage
from shared.errors import LabError
from shared.launch.process import Guarded, until_ready
from shared.processes import free_port

NAME = "open-webui"  # in the ledger: browser/open-webui, render/open-webui
READY_WITHIN_S = 240  # about 10 s on two idle cores, more after the first start of a new installation
ADMINISTRATOR = {"name": "Student", "email": "student@example.com", "password": "for-this-lab-only"}
# Without these it would look for updates and models on the internet, or need a model of its own.
OFFLINE = {
    "OFFLINE_MODE": "True", "HF_HUB_OFFLINE": "1", "ENABLE_VERSION_UPDATE_CHECK": "False",
    "RAG_EMBEDDING_ENGINE": "ollama", "RAG_EMBEDDING_MODEL": "none", "RAG_EMBEDDING_MODEL_AUTO_UPDATE": "False",
    "WHISPER_MODEL_AUTO_UPDATE": "False", "SCARF_NO_ANALYTICS": "true", "DO_NOT_TRACK": "true",
    "ANONYMIZED_TELEMETRY": "false",
}  # fmt: skip
# Each of these makes a request to the engine that its user never sees.
TASKS = ("TITLE", "TAGS", "FOLLOW_UP")
NO_TASKS = {f"ENABLE_{task}_GENERATION": "False" for task in TASKS}

_running: list["OpenWebUI"] = []  # what `before` started: one at most


def home() -> Path:
    """The folder of its installation."""
    return paths.cache() / "open-webui"


def absent() -> str:
    """Why it can't be started here, and the command that mends it. Empty if it is installed."""
    if (home() / "installed.json").exists():
        return ""
    return str(LabError(f"Open WebUI is not installed in {paths.show(home())}.", "make open-webui (about 1 GB)"))


def version() -> str:
    """The installed version; "" if it is not installed."""
    return "" if absent() else str(json.loads((home() / "installed.json").read_text())["version"])


@dataclass
class OpenWebUI:
    """A running Open WebUI whose administrator is signed in."""

    port: int
    folder: Path  # its database and its log
    log: Path
    process: Guarded = field(repr=False)
    settings: Mapping[str, str] = field(repr=False)  # its environment, without what every start adds
    token: str = field(default="", repr=False)
    version: str = ""
    startup_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def chat_page(self) -> ChatPage:
        """Its page as a browser finds it, with the administrator signed in."""
        return ChatPage(
            NAME, self.url, prompt="#chat-input", send="", answer="#response-content-container",
            stop='button[aria-label="Stop"]', ready="#chat-input", storage={"token": self.token},
            made_of={"open_webui": self.version},
        )  # fmt: skip

    def __enter__(self) -> "OpenWebUI":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End it, and remove its database."""
        self.process.end()
        _running[:] = [one for one in _running if one is not self]
        shutil.rmtree(self.folder, ignore_errors=True)

    def started_again(self, *each: Mapping[str, object]) -> list["OpenWebUI"]:
        """It as it would be after a restart with each of these settings in its environment, all started at once.

        Each has a copy of the database as it is now, which is removed when it ends. This one goes on.
        """

        def again(settings: Mapping[str, object]) -> OpenWebUI:
            return start(settings={**self.settings, **settings}, folder=self.copied())

        with ThreadPoolExecutor(len(each)) as at_once:
            starts = [at_once.submit(again, settings) for settings in each]
        if error := next((e for one in starts if (e := one.exception())), None):
            for one in starts:
                if not one.exception():
                    one.result().end()
            raise error
        return [one.result() for one in starts]

    def copied(self) -> Path:
        """A copy of its folder. SQLite makes that of the database, because it may be written to meanwhile."""
        database, folder = Path("data", "webui.db"), Path(tempfile.mkdtemp(prefix="labs-open-webui-"))
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(f"{database.name}*"), dirs_exist_ok=True)
        with (
            contextlib.closing(sqlite3.connect(self.folder / database)) as now,
            contextlib.closing(sqlite3.connect(folder / database)) as copy,
        ):
            now.backup(copy)
        return folder

    def call(self, method: str, path: str, body: object = None, timeout_s: float = 60) -> Any:
        """One request to its API, as the administrator. Raises LabError unless it succeeds."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with httpx.Client(base_url=self.url, trust_env=False, timeout=timeout_s) as client:
                answer = client.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as e:
            raise LabError(f"Open WebUI did not answer {method} {path}: {type(e).__name__}.", self.advice()) from None
        if answer.status_code != 200:
            raise LabError(
                f"Open WebUI answered {method} {path} with {answer.status_code}: {answer.text[:300]}", self.advice()
            )
        return answer.json()

    def advice(self) -> str:
        return f"look into its log, {paths.show(self.log)}, and run the cell again"

    def sign_in(self) -> None:
        """Make the administrator, or sign in as the one that the database has. The first account closes sign-up."""
        first = bool(self.call("GET", "/api/config").get("onboarding"))
        self.token = str(self.call("POST", f"/api/v1/auths/{'signup' if first else 'signin'}", ADMINISTRATOR)["token"])
        # Else its page shows the news of this version before anything can be typed.
        self.call("POST", "/api/v1/users/user/settings/update", {"ui": {"version": self.version}})

    def models(self) -> list[str]:
        """The names of all models, those of Ollama and those of other connections."""
        return [one["id"] for one in self.call("GET", "/api/models?refresh=true")["data"]]

    def tasks(self) -> list[str]:
        """The answers that it is working on, each with the requests that follow it: title, tags, follow-ups."""
        return list(self.call("GET", "/api/tasks")["tasks"])

    def stand_before(self, ollama: str) -> None:
        """From now on its Ollama is the one at this address."""
        body = {"ENABLE_OLLAMA_API": True, "OLLAMA_BASE_URLS": [ollama], "OLLAMA_API_CONFIGS": {}}
        self.call("POST", "/ollama/config/update", body)
        self.models()

    def connect(self, url: str, prefix: str = "gateway", key: str = "none") -> None:
        """Add the OpenAI-compatible server at `url` (without /v1). Its models are called PREFIX.MODEL."""
        connection = {"enable": True, "prefix_id": prefix, "tags": [], "model_ids": [], "auth_type": "bearer"}
        body = {
            "ENABLE_OPENAI_API": True, "OPENAI_API_BASE_URLS": [f"{url}/v1"], "OPENAI_API_KEYS": [key],
            "OPENAI_API_CONFIGS": {"0": {**connection, "connection_type": "local"}},
        }  # fmt: skip
        self.call("POST", "/openai/config/update", body)

    def disconnect(self) -> None:
        """Switch every OpenAI-compatible connection off."""
        self.call("POST", "/openai/config/update", {**self.call("GET", "/openai/config"), "ENABLE_OPENAI_API": False})
        self.models()

    def switch_off(self, capabilities: Iterable[str], max_tokens: int = 0) -> None:
        """The capabilities that its page must not use of any model, such as "builtin_tools"; all others are on.

        `max_tokens` limits every answer; 0 does not.
        """
        settings = self.call("GET", "/api/v1/configs/models")
        settings["DEFAULT_MODEL_METADATA"] = {"capabilities": dict.fromkeys(capabilities, False)}
        settings["DEFAULT_MODEL_PARAMS"] = {"max_tokens": max_tokens} if max_tokens else {}
        self.call("POST", "/api/v1/configs/models", settings)
        self.models()  # its page reads the models that this refreshes

    def set_tasks(self, tasks: Iterable[str], max_tokens: int = 0) -> None:
        """Switch these of TASKS on, and the others off. `max_tokens` limits what each may write; 0 does not."""
        settings = self.call("GET", "/api/v1/tasks/config")
        settings |= {f"ENABLE_{task}_GENERATION": task in tasks for task in TASKS}
        settings["TASK_MODEL_PARAMS"] = {"max_tokens": max_tokens} if max_tokens else {}
        self.call("POST", "/api/v1/tasks/config/update", settings)


def start(ollama: str = "", *, settings: Mapping[str, object] | None = None, folder: Path | None = None) -> OpenWebUI:
    """Start it in front of the Ollama at this address ("": without one), and sign in as its administrator.

    `settings` are further environment variables. `folder` holds the database of an earlier start; without it, the
    database is new. The folder is removed at its end. Raises LabError if it isn't installed, or doesn't get ready.
    """
    if reason := absent():
        what, _, fix = reason.partition("\nFix: ")
        raise LabError(what, fix)
    folder = folder or Path(tempfile.mkdtemp(prefix="labs-open-webui-"))
    usual = {"ENABLE_OLLAMA_API": str(bool(ollama)), "ENABLE_OPENAI_API": "False", **NO_TASKS}
    given = {**usual, **({"OLLAMA_BASE_URL": ollama} if ollama else {})}
    given |= {name: str(value) for name, value in (settings or {}).items()}
    port, log = free_port(), folder / "open-webui.log"
    secret = folder / "secret"
    if not secret.exists():
        secret.write_text(secrets.token_hex(32))
    env = {
        **OFFLINE, **given,
        "DATA_DIR": str(folder / "data"), "HOME": str(folder), "TMPDIR": str(folder),
        "STATIC_DIR": str(folder / "static"),  # else it would write into its installation, beside another start
        "WEBUI_SECRET_KEY": secret.read_text(), "CORS_ALLOW_ORIGIN": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    command = [str(home() / "venv" / "bin" / "open-webui"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    # Nothing is inherited that it might take for a setting: it reads hundreds of variables.
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    with log.open("ab") as out:
        process = Guarded(command, out, cwd=folder, env=env, inherited=inherited)
    webui = OpenWebUI(port, folder, log, process, given, version=version())
    try:
        webui.startup_s = until_ready(process, "Open WebUI", port, "/health", log, READY_WITHIN_S)
    except LabError:
        webui.end()
        raise
    webui.sign_in()
    return webui


def before(ollama: str) -> OpenWebUI:
    """The running Open WebUI, in front of the Ollama at this address; it is started if there is none."""
    for found in list(_running):
        if found.process.exit_code() is None:
            found.stand_before(ollama)
            return found
        found.end()
    found = start(ollama)
    _running.append(found)
    print(f"Open WebUI {found.version} answers on {found.url} after {found.startup_s:.0f} s")
    return found


def stop() -> None:
    """End the Open WebUI that `before` started."""
    for webui in list(_running):
        webui.end()


atexit.register(stop)

"""The gateway as it is operated: the unit of systemd, the container, and nginx with TLS in front, as their files say.

What a test needs and this machine lacks is fetched (environment/debian_programs.py), or the test fails and names it.
"""

import configparser
import inspect
import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from environment import debian_programs
from shared import paths
from shared.launch.process import Guarded
from shared.processes import free_port, port_taken
from tests.helpers.gateway import HELLO, Gateway, bearer, running, write_keys
from tests.helpers.processes import START_S, eventually
from tests.helpers.truth import TruthEngine

pytestmark = pytest.mark.programs

FOLDER = paths.REPO / "environment" / "gateway"
UNIT = (FOLDER / "gateway.service").read_text()
SETTINGS = tomllib.loads((FOLDER / "gateway.toml").read_text())
NGINX = (FOLDER / "nginx.conf").read_text()
INSTALLED = "/opt/inference-engine-labs"


class Unit(configparser.RawConfigParser):
    """A unit's file. A setting that appears twice is a list."""

    def __init__(self, text: str) -> None:
        super().__init__(strict=False, dict_type=dict, delimiters=("=",))
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read_string(text)

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in re.findall(r"(?m)^Environment=(\S+)$", UNIT))


def at_home(text: str, folder: Path) -> str:
    """A file as it is on this machine: the repository where it is, the settings in `folder`."""
    return text.replace(INSTALLED, str(paths.REPO)).replace("/etc/gateway/", f"{folder}/")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """By systemd-analyze where it is installed, as it is on a Spark; by what must not be missing everywhere."""
    service = Unit(UNIT)["Service"]
    assert service["User"] == "gateway"
    assert (service["Type"], service["Restart"], service["KillMode"]) == ("exec", "on-failure", "mixed")
    assert int(service["TimeoutStopSec"]) > SETTINGS.get("drain_s", 30)
    assert str(SETTINGS["keys_file"]).startswith(f"/var/lib/{service['StateDirectory']}/")
    assert {service["NoNewPrivileges"], service["ProtectHome"], service["PrivateTmp"]} == {"yes"}
    if shutil.which("systemd-analyze"):
        (tmp_path / "gateway.service").write_text(at_home(UNIT, tmp_path))
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "gateway.service")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_its_command_starts_the_gateway_and_sigterm_ends_it(tmp_path: Path) -> None:
    port = free_port()
    text = (FOLDER / "gateway.toml").read_text().replace("9000", str(port))
    (tmp_path / "gateway.toml").write_text(text.replace("/var/lib/gateway/keys.json", str(tmp_path / "keys.json")))
    write_keys(tmp_path / "keys.json", {"anna": {}})
    command = at_home(Unit(UNIT)["Service"]["ExecStart"], tmp_path).split()
    env = {name: at_home(value, tmp_path) for name, value in Unit(UNIT).environment.items()}
    process = subprocess.Popen(command, env={"PATH": "/usr/bin:/bin", **env}, cwd="/", stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: port_taken(port), START_S)
        url = f"http://127.0.0.1:{port}/v1/models"
        assert [httpx.get(url, headers=headers).status_code for headers in ({}, bearer("anna"))] == [401, 200]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM), "systemd takes both for a clean end"
    finally:
        process.kill()


def test_the_lock_of_the_container_holds_what_is_tested_here() -> None:
    def pinned(file: Path) -> set[str]:
        return set(re.findall(r"(?m)^[\w.-]+==[\w.]+", file.read_text()))

    own, all_ = pinned(FOLDER / "requirements.lock"), pinned(paths.REPO / "environment" / "requirements.lock")
    assert own <= all_, "run `make lock`"
    copied = re.findall(r"(?m)^COPY (\S+)", (FOLDER / "Dockerfile").read_text())
    assert all((paths.REPO / path).exists() for path in copied)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


@pytest.fixture(scope="module")
def proxied(truth: TruthEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Gateway]]:
    """A client that speaks TLS with nginx, which stands in front of a gateway with keys."""
    folder = tmp_path_factory.mktemp("nginx")
    keys = write_keys(folder / "keys.json", {"anna": {}})
    with running(folder, {"one": truth.url}, keys_file=str(keys)) as gateway:
        port = free_port()
        nginx = [str(debian_programs.ensure("nginx")), "-p", str(folder), "-c", str(nginx_files(folder, gateway, port))]
        checked = subprocess.run([*nginx, "-t"], capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stderr
        assert "[warn]" not in checked.stderr
        with (folder / "nginx.log").open("wb") as log:
            process = Guarded(nginx, log, cwd=folder)
        try:
            assert eventually(lambda: port_taken(port), 20), (folder / "error.log").read_text()
            trusted = ssl.create_default_context(cafile=folder / "gateway.crt")
            with httpx.Client(
                base_url=f"https://127.0.0.1:{port}", verify=trusted, timeout=20, trust_env=False
            ) as client:
                yield client, gateway
        finally:
            process.end()


def nginx_files(folder: Path, gateway: Gateway, port: int) -> Path:
    """A certificate, and our nginx.conf inside a whole configuration that needs no root."""
    subject = ["-subj", "/CN=gateway.example.com", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(folder / "gateway.key"), "-out", str(folder / "gateway.crt")]
    command = [str(debian_programs.ensure("openssl")), "req", "-x509", *kind, *subject, *files]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    ours = NGINX.replace("127.0.0.1:9000", gateway.url.removeprefix("http://"))
    ours = ours.replace("listen 443", f"listen 127.0.0.1:{port}").replace("/etc/nginx/", f"{folder}/")
    temporary = "\n".join(f"{one}_temp_path tmp-{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    whole = "daemon off; pid nginx.pid; error_log error.log; worker_processes 1;\nevents {}\n"
    (folder / "nginx.conf").write_text(f"{whole}http {{ access_log off;\n{temporary}\n{ours} }}")
    return folder / "nginx.conf"


def test_through_tls_each_event_comes_when_it_is_sent(proxied: tuple[httpx.Client, Gateway]) -> None:
    client, _ = proxied
    body = {**HELLO, "stream": True, "max_tokens": 10, "truth": {"gap_s": 0.3}}
    arrived = []
    with client.stream("POST", "/v1/chat/completions", json=body, headers=bearer("anna")) as answer:
        assert answer.status_code == 200
        arrived += [time.monotonic() for _ in answer.iter_raw()]
    assert len(arrived) >= 10, "not collected into fewer blocks"
    assert arrived[-1] - arrived[0] > 1.5, "the first bytes came long before the last: the stream takes 2.7 s"


def test_a_client_that_leaves_nginx_frees_the_seat(proxied: tuple[httpx.Client, Gateway]) -> None:
    client, gateway = proxied
    body = {**HELLO, "stream": True, "max_tokens": 1000, "truth": {"gap_s": 0.05}}
    with client.stream("POST", "/v1/chat/completions", json=body, headers=bearer("anna")) as answer:
        blocks = answer.iter_raw()  # kept: httpx closes the connection when this is collected
        next(blocks)
        assert gateway.count("num_requests_running") == 1
    assert eventually(lambda: gateway.count("num_requests_running") == 0)


def test_nginx_passes_on_the_api_and_nothing_else(proxied: tuple[httpx.Client, Gateway]) -> None:
    client, _ = proxied
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers=bearer("anna")).json()["data"][0]["id"] == "truth"
    assert client.get("/health").json()["status"] == "ok"
    for path in ("/metrics", "/dashboard", "/dashboard.js", "/openapi.json", "/ready", "/v1/../metrics"):
        assert client.get(path, headers=bearer("anna")).status_code == 404, path
    answer = client.get("/v1/models", headers={"x-request-id": "mine-7", **bearer("anna")})
    assert answer.headers["x-request-id"] == "mine-7"
    assert "max-age" in answer.headers["strict-transport-security"]
    assert client.post("/v1/chat/completions", content=b"x" * (4 * 2**20 + 1)).status_code == 413


def test_its_limits_are_those_of_the_gateway() -> None:
    asked = "from gateway.settings import Settings; print(Settings().model_dump_json())"
    env = {"PYTHONPATH": str(paths.REPO / "solutions")}
    said = subprocess.run([sys.executable, "-c", asked], env=env, check=True, capture_output=True, timeout=60)
    default, found = json.loads(said.stdout), dict(re.findall(r"(?m)^\s+(\w+) (\d+)[smk]?;", NGINX))
    assert int(found["client_max_body_size"]) * 2**20 == default["most_body_bytes"]
    assert int(found["client_header_timeout"]) == default["header_s"]
    assert int(found["client_body_timeout"]) == default["body_s"]
    assert int(found["proxy_read_timeout"]) > default["total_s"]
    assert int(found["send_timeout"]) > default["idle_s"]
    # A request on a connection that the gateway closes at that moment is lost, so nginx closes it first.
    idle_s = inspect.signature(uvicorn.Config).parameters["timeout_keep_alive"].default
    assert int(found["keepalive_timeout"]) < idle_s

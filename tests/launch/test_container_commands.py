"""The exact docker commands, and that each engine's published command line has every flag in them."""

import json
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from environment import compose
from shared import paths
from shared.engines import ENGINES, LaunchPlan
from shared.launch import containers
from shared.launch.containers import images
from tests.helpers import container_commands
from tests.helpers.command_lines import unknown, unknown_keys, unknown_settings

COMMANDS = list(container_commands.commands())
# The nearest version of TensorRT-LLM whose flags could be read: see environment/containers/cli/trtllm.json.
NEAREST = {"trtllm": "trtllm-serve (1.3.0rc3)"}


def test_the_commands_are_those_that_were_looked_at() -> None:
    """After an intended change, write the file again: see tests/helpers/container_commands.py."""
    assert container_commands.text() == (paths.REPO / "tests" / "helpers" / "container_commands.txt").read_text()


def test_every_engine_is_there_on_every_machine_plain_and_speculating() -> None:
    titles = [title for title, *_ in COMMANDS]
    for machine in container_commands.MACHINES:
        assert {engine for title, engine, *_ in COMMANDS if title.startswith(machine)} == set(ENGINES)
    assert sum("EAGLE-3" in title for title in titles) >= 3 * 3
    assert sum("NVFP4" in title for title in titles) >= 3


@pytest.mark.parametrize(("title", "engine", "start", "command"), COMMANDS, ids=[title for title, *_ in COMMANDS])
def test_each_word_is_published(title: str, engine: str, start: LaunchPlan, command: list[str]) -> None:
    image = images()[ENGINES[engine].container.image]
    after = command.index(image.reference) + 1
    assert unknown("docker", command[:after]) == []
    if ENGINES[engine].flags_in == "environment":
        given = [word.partition("=") for flag, word in pairwise(command) if flag == "--env"]
        settings = {key: value for key, _, value in given if key not in ("HF_TOKEN", "HF_HOME")}
        assert settings
        assert unknown_settings(engine, settings) == []
        assert command[after:] == []
    else:
        words = {"vllm": ["vllm", "serve"], "llamacpp": ["llama-server"]}.get(engine, []) + command[after:]
        if engine in NEAREST:
            assert words.pop(0) == "trtllm-serve"
        assert unknown(engine, words, NEAREST.get(engine, "")) == []
    for text in ENGINES[engine].container.files(start).values():
        assert unknown_keys(json.loads(text)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_no_command_repeats_what_the_image_runs_already(engine: str) -> None:
    entrypoint = tomllib.loads(containers.IMAGES.read_text())[ENGINES[engine].container.image]["entrypoint"]
    for _, name, _, command in COMMANDS:
        if name == engine:
            image = images()[ENGINES[engine].container.image]
            words = [Path(word).name for word in command[command.index(image.reference) + 1 :]]
            assert words[: len(entrypoint)] != [Path(word).name for word in entrypoint] or not entrypoint
            starts_itself = "nvidia_entrypoint" not in " ".join(entrypoint)
            assert starts_itself == (not words or words[0].startswith("-") or engine == "vllm")


def test_the_spark_is_told_what_keeps_its_memory_safe() -> None:
    for title, engine, start, command in COMMANDS:
        if not title.startswith("dgx-spark") or engine not in ("vllm", "sglang"):
            continue
        said = dict(pairwise(command))
        share = float(said["--gpu-memory-utilization" if engine == "vllm" else "--mem-fraction-static"])
        assert 0.05 < share < 0.4, title
        if engine == "vllm":
            assert int(said["--kv-cache-memory-bytes"]) == start.kv_bytes > 0
        assert not [word for word in command if word.startswith("--restart")]


def test_no_profile_of_compose_needs_a_variable_of_another() -> None:
    """docker compose fills in the variables of all services, whichever profile is asked for."""
    assert re.findall(r"\$\{\w+:?\?", compose.compose()) == []


def test_compose_says_the_same_as_the_specs() -> None:
    file = paths.REPO / "environment" / "containers" / "compose.yaml"
    assert file.read_text() == compose.compose(), "run `make compose`"
    services = yaml.safe_load(file.read_text())["services"]
    assert set(services) == {*ENGINES, "gateway", "webui", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["profiles"] == [{"prometheus": "monitoring", "grafana": "monitoring"}.get(name, name)]
        # What shares the machine's network listens on 127.0.0.1 by its own settings.
        assert ("network_mode" in service) == (name in ("gateway", "prometheus", "grafana"))
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert ("ports" in service) != ("network_mode" in service)
        assert ("restart" in service) == (name == "gateway"), "an engine is never started again by itself"
        assert "entrypoint" not in service
        assert ("deploy" in service) == (service.get("ipc") == "host") == (name in ENGINES)
        assert ":latest" not in (service.get("image") or service["build"]["args"]["PYTHON"])
        for volume in service["volumes"]:
            if volume.startswith("../"):
                assert (file.parent / volume.split(":")[0]).exists()
        if name in ENGINES and ENGINES[name].flags_in == "arguments":
            words = [str(word) for word in service["command"]]
            words = {"vllm": ["vllm", "serve"], "llamacpp": ["llama-server"]}.get(name, []) + words
            assert unknown(name, words[1:] if name in NEAREST else words, NEAREST.get(name, "")) == []

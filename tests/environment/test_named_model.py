"""LABS_MODEL: any small model of a hub. The hub is a real server on this machine (tests/helpers/hub.py)."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ollama import Client
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

from environment.small_model import fetch
from shared import LabError, models, paths
from shared.engines.http import get, post_json
from shared.hardware import Machine
from shared.launch.process import Guarded
from shared.load.prompts import chat
from shared.models import ModelChoice, choice
from shared.models.llama import Llama
from shared.processes import free_port
from tests.helpers.hub import REVISION, Hub, serving
from tests.helpers.processes import START_S, eventually

TINY: dict[str, Any] = {
    "vocab_size": 49_152, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_theta": 5000.0,
}
CONFIGS = {
    "labs/Tiny-Llama": LlamaConfig(**TINY, rope_parameters=SCALED, tie_word_embeddings=False),
    "labs/tiny-qwen2": Qwen2Config(**TINY, tie_word_embeddings=True),
    "labs/tiny-qwen3": Qwen3Config(**TINY, head_dim=32, tie_word_embeddings=True),
}
WRONG = {  # LABS_MODEL → part of the error
    "labs/nothing": "The hub has no labs/nothing, or it is private. -> check the name",
    "labs/tiny-qwen3-v9@v9": "The hub has labs/tiny-qwen3-v9, but not its revision 'v9'.",
    "labs/gated": "labs/gated is gated: it needs the token of an account that has accepted its licence. "
    "-> accept the licence",
    "labs/other": "GemmaForCausalLM, but only LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM are supported",
    "labs/empty": "labs/empty has no safetensors",
    "no name": "LABS_MODEL is 'no name', which is not the name of a model. -> set LABS_MODEL=owner/name",
}
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n\n' + m['content'] | trim + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n\n' }}{% endif %}"
)
# Fetches several models in one process: importing torch takes seconds. Each result lies in its folder.
DRIVER = """
import json, sys
from environment.small_model import fetch
for asked, folder in json.loads(sys.argv[1]):
    sys.argv[1:] = [asked, folder]
    print(asked, fetch.main())
"""


def random_model(config: Any) -> Any:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in made.named_parameters():  # biases and norms start as 0 and 1, which would hide errors
            if name.endswith("bias") or "norm" in name:
                weight.add_(torch.randn_like(weight) / 3)
    return made


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Three tiny random models with the small model's tokenizer, and models that the labs must refuse."""
    root = tmp_path_factory.mktemp("hub")
    small = models.small().weights("hf")
    repositories = {}

    def add(name: str) -> Path:
        repositories[name] = folder = root / name.replace("/", "-")
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(small / file, folder / file)
        return folder

    for name, config in CONFIGS.items():
        folder = add(name)
        random_model(config).to(torch.float32).save_pretrained(folder)
    (root / "labs-Tiny-Llama" / "chat_template.jinja").write_text(LLAMA3)
    (root / "labs-tiny-qwen2" / "original").mkdir()
    (root / "labs-tiny-qwen2" / "original" / "model.safetensors").write_bytes(b"the same weights in another form")
    for name in ("torn", "short", "gated"):
        shutil.copytree(root / "labs-Tiny-Llama", root / f"labs-{name}")
        repositories[f"labs/{name}"] = root / f"labs-{name}"
    other = add("labs/other")
    (other / "config.json").write_text(json.dumps({"architectures": ["GemmaForCausalLM"]}))
    (other / "model.safetensors").write_bytes(b"never fetched")
    add("labs/empty")
    repositories["labs/tiny-qwen3-v9"] = root / "labs-tiny-qwen3"
    with serving(Hub(repositories, gated={"labs/gated"}, tear={"labs/torn"}, short={"labs/short"})) as running:
        yield running


def fetched(hub: Hub, tmp_path: Path, asked: list[str]) -> dict[str, Path]:
    """Fetch these models in a process of its own; returns the folder of each."""
    folders = {name: tmp_path / choice.slug(name) for name in asked}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}
    todo = json.dumps([[name, str(folder)] for name, folder in folders.items()])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, todo],
        cwd=paths.REPO,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folders


def error(folder: Path) -> str:
    said = json.loads((folder / "error.json").read_text())
    return f"{said['message']} -> {said['fix']}"


@pytest.fixture(scope="module")
def cache(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache after all models were asked for; the fetched ones lie where the set-up puts them."""
    tmp_path = tmp_path_factory.mktemp("cache")
    (tmp_path / "models").mkdir()
    for name, folder in fetched(hub, tmp_path, [*CONFIGS, "labs/torn", "labs/short", *WRONG]).items():
        if not (folder / "error.json").exists():
            folder.rename(tmp_path / "models" / choice.slug(name))
    return tmp_path


@pytest.fixture
def chosen(cache: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Any:
    monkeypatch.setenv("LABS_CACHE", str(cache))

    def choose(asked: str) -> ModelChoice:
        monkeypatch.setenv("LABS_MODEL", asked)
        return models.choose(replace(machine, profile="cpu"))

    return choose


def test_a_torn_download_goes_on_where_it_was(hub: Hub, cache: Path) -> None:
    file = f"/labs/torn/resolve/{REVISION}/model.safetensors"
    assert [part for method, path, part in hub.asked if (method, path) == ("GET", file)] == [
        "",
        f"bytes={10 * 2**20}-",  # the client writes 10 MiB at a time
    ]
    assert (cache / "models" / "labs--torn" / "model.json").exists()


def test_a_failed_fetch_run_again_fetches_only_what_is_missing(hub: Hub, cache: Path) -> None:
    folder = cache / "labs--short"
    assert "could not be fetched" in error(folder)
    assert not (folder / "model.json").exists()
    hub.short.clear()
    before = len(hub.asked)
    fetched(hub, cache, ["labs/short"])
    assert not (folder / "error.json").exists()
    assert json.loads((folder / "model.json").read_text())["source"]["revision"] == REVISION
    files = [path.rpartition("/")[2] for method, path, _ in hub.asked[before:] if method == "GET" and "resolve" in path]
    assert files == ["model.safetensors"]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_fetched_computes_what_transformers_computes(hub: Hub, chosen: Any, name: str) -> None:
    model = chosen(name)
    ours = Llama.load(model.folder / "hf", torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(hub.repositories[name], dtype=torch.bfloat16).float()
    ids = torch.randint(3, 49_152, (2, 40), generator=torch.Generator().manual_seed(1))
    logits = ours.forward(ids, ours.new_cache(2, 40), every=True)
    with torch.inference_mode():
        torch.testing.assert_close(logits, theirs(ids).logits, atol=2e-4, rtol=1e-4)
    assert model.parameters == sum(p.numel() for p in theirs.parameters())
    assert (model.layers, model.kv_heads, model.context) == (2, 2, 512)
    assert model.lookup == (49_152 * 64 if name == "labs/Tiny-Llama" else 0)
    assert model.output == 49_152 * 64
    assert model.sources["hf BF16"].pinned == f"{name}@{REVISION}"
    assert (model.name, model.local, model.sources["hf BF16"].licence) == (name[5:].lower(), True, "apache-2.0")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_told_what_is_wrong(hub: Hub, cache: Path, name: str) -> None:
    assert WRONG[name] in error(cache / choice.slug(name))
    assert not any(path.startswith("/labs/other/") and path.endswith("model.safetensors") for _, path, _ in hub.asked)


def test_without_a_network_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # no server listens there
    with pytest.raises(
        LabError,
        match=r"can't be reached for labs/tiny-qwen2 \(ConnectError.*\nFix: check the network.*unset LABS_MODEL",
    ):
        fetch.resolve("labs/tiny-qwen2")


def test_a_model_too_big_is_refused() -> None:
    fetch.check_size("labs/fits", 2_000_000_000, 16 * 10**9)
    with pytest.raises(LabError, match=r"has 2\.1 GB of weights"):
        fetch.check_size("labs/big", 2_100_000_000, 16 * 10**9)
    with pytest.raises(LabError, match=r"half of the memory \(0\.5 GB here\)"):
        fetch.check_size("labs/big", 600_000_000, 10**9)


def test_a_tokenizer_without_bytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"type": "BPE"}, "decoder": {"type": "ByteFallback"}}))
    with pytest.raises(LabError, match="byte-level BPE"):
        fetch.check_tokenizer(file, "labs/other")
    fetch.check_tokenizer(models.small().weights("hf") / "tokenizer.json", "labs/small")


def test_other_forms_of_the_same_weights_are_not_fetched(hub: Hub, cache: Path) -> None:
    assert (cache / "models" / "labs--tiny-qwen2" / "model.json").exists()
    assert not any("/original/" in path for _, path, _ in hub.asked)


def test_another_model_than_was_set_up_is_told(chosen: Any) -> None:
    assert chosen("labs/tiny-qwen3").name == "tiny-qwen3"
    with pytest.raises(LabError, match=r"is not set up\.\nFix: make engines LABS_MODEL=labs/never"):
        chosen("labs/never")
    with pytest.raises(LabError, match="but 'labs/tiny-qwen3' was set up"):
        chosen("labs/tiny-qwen3@v2")


def test_its_system_message_is_the_templates_own(chosen: Any) -> None:
    assert chosen("labs/tiny-qwen2").system == choice.SYSTEM  # ChatML with a default, as the small model
    llama = chosen("labs/Tiny-Llama")
    assert llama.system == "You are a helpful assistant."
    assert llama.stops == ("<|im_end|>",)
    assert "<|user|>" in llama.ollama_template
    # The model came with two different templates. Only the one that transformers prefers is kept.
    stored = json.loads((llama.folder / "hf" / "tokenizer_config.json").read_text())
    assert stored["chat_template"] == LLAMA3
    assert not (llama.folder / "hf" / "chat_template.jinja").exists()


LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (s if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
COUNTING = (
    "{% for m in messages %}{{ loop.index ~ m['role'] ~ ': ' ~ m['content'] ~ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_a_template_that_takes_no_system_message_gets_none(model: ModelChoice) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model.weights("hf"))
    tokenizer.chat_template = MISTRAL
    turns = fetch.take_apart(tokenizer)
    assert turns.system == ""
    assert chat(replace(model, system=""), "Why?", "n0") == [{"role": "user", "content": "[n0] Why?"}]
    assert turns.render([("user", "Why?")]) == "[INST] Why? [/INST]"
    tokenizer.chat_template = COUNTING
    with pytest.raises(LabError, match="not a plain sequence of turns"):
        fetch.take_apart(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(LabError, match="no chat template"):
        fetch.take_apart(tokenizer)


@pytest.fixture
def borrowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, with the real one's llama.cpp, as links."""
    real, own = paths.cache(), tmp_path / "cache"
    for name in ("build-tools", "engines/llamacpp"):
        home = (real / name).resolve()
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).with_name(home.name).symlink_to(home)
        (own / name).symlink_to(home.name)
    monkeypatch.setenv("LABS_CACHE", str(own))
    return own


@pytest.mark.engine
def test_a_named_model_is_set_up_and_answers_as_the_reference_does(
    hub: Hub, model: ModelChoice, borrowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    """The small model under another name, through the real set-up: its proof compares llama.cpp's greedy tokens."""
    hub.repositories["Somebody/Good-Model"] = model.folder / "hf"
    monkeypatch.setenv("LABS_MODEL", "Somebody/Good-Model")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    command = [sys.executable, "-m", "environment.install", "models/somebody--good-model-gguf"]
    done = subprocess.run(command, cwd=paths.REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "GGUF in BF16, Q8_0, Q4_0: proved: TTFT" in done.stdout
    named = models.choose(replace(machine, profile="cpu"))
    assert (named.parameters, named.name, named.system) == (model.parameters, "good-model", model.system)
    assert named.sha256("BF16") != model.sha256("BF16")  # llama.cpp's converter, not llama-quantize, wrote it
    assert named.file_bytes("Q4_0") < named.file_bytes("Q8_0") < named.file_bytes("BF16")
    again = subprocess.run(command, cwd=paths.REPO, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.fixture
def ollama(tmp_path: Path) -> Iterator[str]:
    """A real Ollama with a store of its own; returns its URL."""
    program = paths.cache() / "engines" / "ollama" / "bin" / "ollama"
    where = f"127.0.0.1:{free_port()}"
    env = {**os.environ, "OLLAMA_HOST": where, "OLLAMA_MODELS": str(tmp_path), "HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        process = Guarded([str(program), "serve"], log, env=env)
    try:
        assert eventually(lambda: get(int(where.split(":")[1]), "/api/version") is not None, START_S)
        yield f"http://{where}"
    finally:
        process.end()


@pytest.mark.programs
@pytest.mark.parametrize("template", [LLAMA3, LLAMA2], ids=["llama 3", "llama 2"])
def test_ollama_renders_the_derived_template_as_transformers_does(
    model: ModelChoice, ollama: str, template: str
) -> None:
    """It would force ChatML on a template that it doesn't know: another prompt."""
    tokenizer = AutoTokenizer.from_pretrained(model.weights("hf"))
    tokenizer.chat_template = template
    turns = fetch.take_apart(tokenizer)
    client = Client(ollama)
    files = {"model.gguf": client.create_blob(model.weights("Q4_0"))}
    client.create(model="derived", files=files, template=turns.ollama(), parameters={"stop": list(turns.stops)})
    client.create(model="left-alone", files=files)
    talk = chat(replace(model, system=turns.system), "What is {{ this }}?")
    for messages in (
        talk,
        talk[1:],
        [*talk, {"role": "assistant", "content": "B."}, {"role": "user", "content": "C?"}],
    ):
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for name, equal in (("derived", True), ("left-alone", False)):
            body = {"model": name, "messages": messages, "stream": False, "_debug_render_only": True}
            said = post_json(f"{ollama}/api/chat", body)["_debug_info"]["rendered_template"]
            assert (said == expected) is equal, said

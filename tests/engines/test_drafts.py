"""Drafts without an engine: their flags, whether they fit a model, and what the engines' counters say about them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest

from shared import LabError
from shared.engines import ENGINES, Draft, LaunchPlan, draft_checks, http
from shared.engines.draft_counts import DraftCounts, draft_counts
from shared.engines.published_flags import unknown
from shared.engines.spec import DRAFTS, Speculation
from shared.models import ModelChoice, gguf_header

HEAD = Path("/heads/own")
EAGLE, NGRAM, MODEL = Draft("eagle3", 3, HEAD), Draft("ngram", 8), Draft("model", 5, Path("/models/small"))


def flags(name: str, draft: Draft) -> dict[str, Any]:
    way = ENGINES[name].way("container" if ENGINES[name].native is None else "native")
    assert way.speculate
    return dict(way.speculate(draft, str(draft.path or "")))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "medusa", "tokens": 3}, "no draft of kind 'medusa'.\nFix: choose one of eagle3, model, ngram"),
        ({"kind": "ngram", "tokens": 0}, "tokens=0 and match=3, but both must be whole numbers"),
        ({"kind": "ngram", "tokens": 4, "match": 0}, "tokens=4 and match=0"),
        ({"kind": "eagle3", "tokens": 3, "synthetic_length": 4.5}, "a verification of 3 drafts adds 1 to 4 tokens"),
        ({"kind": "eagle3", "tokens": 3, "synthetic_length": 0.5}, "synthetic_length is 0.5"),
    ],
)
def test_a_draft_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError) as refused:
        Draft(**wrong)
    assert said in str(refused.value)


def test_flags_of_llamacpp() -> None:
    assert flags("llamacpp", EAGLE) == {
        "--spec-type": "draft-eagle3", "--spec-draft-model": "/heads/own", "--spec-draft-n-max": 3,
        "--no-spec-draft-backend-sampling": True,
    }  # fmt: skip
    assert flags("llamacpp", MODEL)["--spec-type"] == "draft-simple"
    ngram = {"--spec-type": "ngram-simple", "--spec-ngram-simple-size-n": 3, "--spec-ngram-simple-size-m": 8}
    assert flags("llamacpp", NGRAM) == ngram
    # It drafts nothing if the match is longer than the draft.
    assert flags("llamacpp", Draft("ngram", 2, match=5))["--spec-ngram-simple-size-n"] == 2
    assert flags("llamacpp", replace(EAGLE, synthetic_length=2.5))["--spec-synth-len"] == 2.5


def test_flags_of_vllm() -> None:
    said = {draft.kind: json.loads(flags("vllm", draft)["--speculative-config"]) for draft in (EAGLE, NGRAM, MODEL)}
    assert said["eagle3"] == {"method": "eagle3", "model": "/heads/own", "num_speculative_tokens": 3}
    assert said["model"] == {"method": "draft_model", "model": "/models/small", "num_speculative_tokens": 5}
    lookup = {"prompt_lookup_min": 3, "prompt_lookup_max": 3}
    assert said["ngram"] == {"method": "ngram", **lookup, "num_speculative_tokens": 8}


def test_flags_of_sglang_are_all_three_numbers() -> None:
    said = flags("sglang", EAGLE)
    assert (said["--speculative-algorithm"], said["--speculative-draft-model-path"]) == ("EAGLE3", "/heads/own")
    numbers = ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens")
    assert [said[name] for name in numbers] == [3, 1, 4]  # its "draft tokens" count the model's last token, too


def test_keys_of_tensorrt_llm() -> None:
    said = {draft.kind: flags("trtllm", draft)["speculative_config"] for draft in (EAGLE, NGRAM, MODEL)}
    assert said["eagle3"] == {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "/heads/own"}
    assert said["ngram"] == {"decoding_type": "NGram", "max_draft_len": 8, "max_matching_ngram_size": 3}
    assert said["model"]["decoding_type"] == "Draft_Target"


def plan(model: ModelChoice, speculation: Speculation | None) -> LaunchPlan:
    return LaunchPlan(Path("/engine"), model, "BF16", 4711, 2, {"--a": 1}, "/weights", speculation=speculation)


@pytest.mark.parametrize(
    ("name", "program"), [("llamacpp", "llama-server"), ("sglang", "python -m sglang.launch_server")]
)
@pytest.mark.parametrize("draft", [EAGLE, NGRAM, MODEL, replace(EAGLE, synthetic_length=2.0)])
def test_each_flag_is_published(name: str, program: str, draft: Draft) -> None:
    words = [str(word) for flag in flags(name, draft).items() for word in flag if word is not True]
    assert unknown(name, [*program.split(), *words]) == []


def test_sglang_speculates_with_the_backend_that_can(model: ModelChoice) -> None:
    way = ENGINES["sglang"].native
    assert way
    plain, drafting = plan(model, None), plan(model, Speculation(EAGLE, flags("sglang", EAGLE)))
    assert way.command(plain).count("--attention-backend") == 1
    command = way.command(drafting)
    assert "--attention-backend" not in command
    for half in ("--prefill-attention-backend", "--decode-attention-backend"):
        assert command[command.index(half) + 1] == "intel_amx"
    assert way.env(drafting)["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in way.env(plain)
    assert next(iter(drafting.every_flag)) == "--a"
    assert plain.every_flag == {"--a": 1}


def test_sglang_wants_all_three_numbers_or_none() -> None:
    steps, topk, tokens = "--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens"
    algorithm: dict[str, object] = {"--speculative-algorithm": "EAGLE3"}
    for runner in ("native", "container"):
        way = ENGINES["sglang"].way(runner)
        assert way.refuses({}) == ""
        assert way.refuses({**algorithm, steps: 3, topk: 1, tokens: 4}) == ""
        assert way.refuses({"--speculative-algorithm": "NGRAM", tokens: 8}) == ""
        assert way.refuses({**algorithm, steps: 3, topk: 1}).endswith(f"but the flags set only {steps} and {topk}")
        assert way.refuses({**algorithm, tokens: 4}).endswith(f"only {tokens}")
    tree = {**algorithm, steps: 3, topk: 4, tokens: 16}
    container, native = (ENGINES["sglang"].way(runner) for runner in ("container", "native"))
    assert container.refuses(tree) == container.refuses(algorithm) == ""  # as NVIDIA publishes it
    assert "verifies chains of drafts only" in native.refuses(tree)
    assert "without its three numbers it would draft a tree" in native.refuses(algorithm)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_drafts_by_each_kind_or_has_a_reason(name: str) -> None:
    spec = ENGINES[name]
    for runner in ("native", "container") if spec.native else ("container",):
        without = [kind for kind, capability in DRAFTS.items() if spec.why_not(runner, capability)]
        assert (spec.way(runner).speculate is None) == (len(without) == len(DRAFTS))


def test_provenance_names_no_path() -> None:
    one = Speculation(replace(EAGLE, synthetic_length=2.0), {"--x": "/heads/own"}, weights="abc")
    assert one.provenance() == {"kind": "eagle3", "tokens": 3, "weights": "abc", "synthetic_length": 2.0}
    assert Speculation(NGRAM, {}).provenance() == {"kind": "ngram", "tokens": 8, "match": 3}


TARGET = {"hidden_size": 576, "vocab_size": 49152, "num_hidden_layers": 30}
OWN = {
    "architectures": ["LlamaForCausalLMEagle3"], "target_hidden_size": 576, "vocab_size": 49152,
    "eagle_aux_hidden_state_layer_ids": [2, 15, 27],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"target_hidden_size": 4096}, "its target_hidden_size is 4096, but the model's hidden_size is 576"),
        ({"vocab_size": 128256}, "its vocab_size is 128256, but the model's vocab_size is 49152"),
        ({"eagle_aux_hidden_state_layer_ids": None}, "must name the 3 layers of the model"),
        ({"eagle_aux_hidden_state_layer_ids": [2, 15]}, "but names 2, 15"),
        ({"eagle_aux_hidden_state_layer_ids": [2, 16, 40]}, "the input of layer 40, but the model has 30 layers"),
        ({"architectures": ["LlamaForCausalLM"]}, "its architecture is LlamaForCausalLM, not LlamaForCausalLMEagle3"),
    ],
)
def test_a_head_of_another_model_is_recognised(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    model, head = folder(tmp_path / "model", TARGET), folder(tmp_path / "head", {**OWN, **change})
    assert said in (fault := draft_checks.fault("eagle3", head, model))
    assert bool(fault) == bool(said)


def folder(path: Path, config: dict[str, Any], tokens: dict[str, int] | None = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens or {"a": 0}}}))
    (path / "model.safetensors").touch()
    return path


def test_a_draft_model_with_another_tokenizer_is_recognised(tmp_path: Path) -> None:
    model = folder(tmp_path / "model", TARGET, {"a": 0, "b": 1})
    assert draft_checks.fault("model", folder(tmp_path / "same", TARGET, {"b": 1, "a": 0}), model) == ""
    larger = folder(tmp_path / "larger", {**TARGET, "vocab_size": 50257})
    assert "its vocab_size is 50257" in draft_checks.fault("model", larger, model)
    other = folder(tmp_path / "other", TARGET, {"a": 1, "b": 0})
    assert "gives other numbers to tokens" in draft_checks.fault("model", other, model)
    (other / "model.safetensors").unlink()
    assert "no weights" in draft_checks.fault("model", other, model)
    (other / "config.json").write_text("{")
    with pytest.raises(LabError, match=r"other/config\.json can't be read: .*\nFix: give the folder"):
        draft_checks.fault("model", other, model)


def ggufs(file: Path, architecture: str, tokens: list[str], **keys: Any) -> Path:
    """A GGUF of metadata only."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_embedding_length(576)
    writer.add_block_count(30)
    writer.add_token_list(tokens)
    for key, value in keys.items():
        name = f"{architecture}.{key}"
        writer.add_array(name, value) if isinstance(value, list) else writer.add_uint32(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def test_a_gguf_of_another_model_is_recognised(tmp_path: Path) -> None:
    words = ["a", "b", "c"]
    model = ggufs(tmp_path / "model", "llama", words)
    right = {"target_hidden_size": 576, "target_layers": [2, 15, 27]}

    def fault(kind: str, architecture: str, tokens: list[str], **keys: Any) -> str:
        return draft_checks.fault(kind, ggufs(tmp_path / "draft", architecture, tokens, **keys), model)

    assert fault("eagle3", "eagle3", words, **right) == ""
    assert fault("model", "llama", words) == ""
    assert fault("eagle3", "llama", words) == "its architecture is llama, which is no EAGLE-3 head"
    assert fault("model", "eagle3", words, **right) == "its architecture is eagle3, which is an EAGLE-3 head"
    assert "has 2 tokens, and the model's 3" in fault("model", "llama", words[:2])
    assert "has other tokens" in fault("eagle3", "eagle3", ["a", "c", "b"], **right)
    assert "target_hidden_size is 4096, but the model's is 576" in fault(
        "eagle3", "eagle3", words, **{**right, "target_hidden_size": 4096}
    )
    assert "but names none" in fault("eagle3", "eagle3", words, target_hidden_size=576)
    assert "but names 2, 15" in fault("eagle3", "eagle3", words, **{**right, "target_layers": [2, 15]})
    assert "the input of layer 33, but the model has 30" in fault(
        "eagle3", "eagle3", words, **{**right, "target_layers": [2, 18, 33]}
    )


def test_metadata_is_read_as_the_package_reads_it(model: ModelChoice, tmp_path: Path) -> None:
    file = ggufs(tmp_path / "one", "llama", ["ä", "b"], things=[1, 2], size=7)
    reader = gguf.GGUFReader(file)
    assert {key: plain(value) for key, value in gguf_header.read(file).items()} == {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }
    whole = gguf_header.read(model.weights("BF16"))
    assert (whole["llama.embedding_length"], len(whole["tokenizer.ggml.tokens"])) == (576, 49152)
    for content, why in ((b"PK\x03\x04" + bytes(40), "it does not begin with GGUF"), (b"GGUF\x03", "can't be read")):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(LabError, match=f"other can't be read as a GGUF file: .*{'' if 'be read' in why else why}"):
            gguf_header.read(tmp_path / "other")


def plain(value: Any) -> Any:
    return (
        [plain(one) for one in value]
        if isinstance(value, list)
        else value.decode()
        if isinstance(value, bytes)
        else value
    )


PAGES = {  # what the engines printed after one answer, other lines left out
    "llamacpp": """
llamacpp:spec_decode_num_draft_tokens_total 150
llamacpp:spec_decode_num_accepted_tokens_total 27
llamacpp:spec_decode_num_drafts_total 50
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 18
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 7
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="2"} 2
""",
    "vllm": """
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 50.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 150.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 27.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 18.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 7.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="2"} 2.0
""",
    "sglang": """
sglang:generation_tokens_total{is_streaming="false",model_name="m"} 48.0
sglang:generation_tokens_total{is_streaming="true",model_name="m"} 31.0
sglang:num_requests_total{is_streaming="false",model_name="m"} 1.0
sglang:num_requests_total{is_streaming="true",model_name="m"} 1.0
sglang:spec_verify_calls_total{model_name="m"} 50.0
""",
}


@pytest.mark.parametrize("name", PAGES)
def test_counters_of_drafts_have_one_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "get", lambda *_: (200, PAGES[name]))
    spec = ENGINES[name]
    endpoint: Any = SimpleNamespace(spec=spec, port=1)
    counted = http.counters(endpoint)
    expected = DraftCounts(50, 150, 27, None if name == "sglang" else (18, 7, 2))
    assert draft_counts(spec, EAGLE, counted) == expected
    assert expected.acceptance == 0.18
    assert expected.tokens_per_verification == 1.54
    assert draft_counts(spec, None, counted) is None
    assert draft_counts(spec, EAGLE, {}) is None


def test_nothing_drafted_is_no_acceptance() -> None:
    idle = {"verifications": 0.0, "draft_tokens": 0.0, "accepted_draft_tokens": 0.0}
    counts = draft_counts(ENGINES["llamacpp"], NGRAM, idle)
    assert counts == DraftCounts(0, 0, 0, (0,) * 8)
    assert counts.acceptance is None
    assert counts.tokens_per_verification is None


def test_llamacpp_without_its_draft_is_noticed() -> None:
    fault = ENGINES["llamacpp"].draft_fault
    assert fault
    line = "0.5 E load_model: failed to initialize speculative decoding context: draft model vocab type must match\n"
    assert fault("started\n" + line + "listening") == "draft model vocab type must match"
    assert fault("0.9 I common_speculative_init_result: loading draft model\n") == ""

"""The models of machines with an NVIDIA GPU: where their weights lie, as data. And how long the labs take with them.

Hugging Face itself was not reached when this was written. Revisions and sizes come from public code that
pins or measured them; `where` says which. What was found nowhere is "" or None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

CHECKED = "2026-11-24"


@dataclass(frozen=True)
class Source:
    """One set of weights on Hugging Face."""

    repository: str
    revision: str  # commit hash; "" is unknown: whoever downloads resolves it and writes it down
    file: str  # one GGUF's name; "" is all safetensors of the repository
    bytes: int | None  # of the weights
    licence: str
    gated: bool  # needs an account that has accepted the licence, and HF_TOKEN
    ungated: str  # a repository with the same weights and no gate; "" if it needs none, or none is known
    checked: str  # when this was looked up
    source: str  # where

    @property
    def pinned(self) -> str:
        """What a result says of its weights: repository@revision."""
        return f"{self.repository}@{self.revision or 'unknown'}"


@dataclass(frozen=True)
class CatalogueEntry:
    """A published model: its shape, its sources by "<what an engine reads> <precision>", the drafts that fit it."""

    name: str
    parameters: int
    lookup: int  # of them in an input embedding of its own: looked up, not read whole at every step
    output: int  # of them in the output matrix
    layers: int  # that keep keys and values
    kv_heads: int
    head_dim: int
    context: int
    system: str
    sources: Mapping[str, Source]
    drafts: Mapping[str, Source] = field(default_factory=dict)
    note: str = ""


def found(
    repository: str,
    revision: str,
    size: int | None,
    licence: str,
    where: str,
    *,
    file: str = "",
    gated: bool = False,
    ungated: str = "",
) -> Source:
    return Source(repository, revision, file, size, licence, gated, ungated, CHECKED, where)


LLAMA31, LLAMA32 = "Llama 3.1 Community License", "Llama 3.2 Community License"
APACHE, NVIDIA = "Apache-2.0", "NVIDIA Open Model License; Llama 3.1 Community License"
A_LIST = "a public list of GGUF repositories with revisions and sizes, read from the hub"
A_TREE = "the hub's file list, as public code quotes it"
CODE = "public code that pins this revision"

# The weights of both are Meta's; the mirror asks for no account.
LLAMA = found(
    "meta-llama/Llama-3.1-8B-Instruct", "0e9e39f249a16976918f6564b8830bc894c89659", 16_060_556_376, LLAMA31,
    CODE + "; size from a benchmark's file list", gated=True, ungated="unsloth/Meta-Llama-3.1-8B-Instruct",
)  # fmt: skip
MIRROR = found(
    "unsloth/Meta-Llama-3.1-8B-Instruct", "a2856192dd7c25b842431f39c179a6c2c2f627d1", 16_060_556_376, LLAMA31,
    CODE + "; size as of the original",
)  # fmt: skip
UNGATED: Mapping[str, Source] = {LLAMA.repository: MIRROR}

# Trained for EAGLE-3 on Llama-3.1-8B-Instruct, each in the form that its engine loads.
EAGLE3_VLLM = found(
    "RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3", "f4fa34a8f803a0ba75d048d6b3dbc1ad5149e9ac", None,
    "unknown", CODE + "; vLLM's own documentation names it",
)  # fmt: skip
EAGLE3_SGLANG = found(
    "lmsys/sglang-EAGLE3-LLaMA3.1-Instruct-8B", "28a53ce8911434c031d7c78392abb26d898ec293", None,
    "unknown", CODE + "; SGLang's benchmark scripts name it",
)  # fmt: skip
EAGLE3_TRTLLM = found(
    "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "ada412b672e293d682423de84a095447bf38a637", None,
    "unknown", CODE + " for TensorRT-LLM; a disk listing shows 811 MB",
)  # fmt: skip
# The same tokenizer as Llama-3.1-8B's, an eighth of its size.
DRAFT_1B = found(
    "unsloth/Llama-3.2-1B-Instruct", "5a8abab4a5d6f164389b1079fb721cfab8d7126c", None, LLAMA32,
    CODE + "; an ungated mirror of meta-llama/Llama-3.2-1B-Instruct",
)  # fmt: skip
DRAFT_1B_GGUF = found(
    "unsloth/Llama-3.2-1B-Instruct-GGUF", "b69aef112e9f895e6f98d7ae0949f72ff09aa401", None, LLAMA32,
    CODE + "; file name from a public download script", file="Llama-3.2-1B-Instruct-BF16.gguf",
)  # fmt: skip

LLAMA_8B = CatalogueEntry(
    name="llama-3.1-8b-instruct",
    parameters=8_030_261_248,
    lookup=128_256 * 4096,
    output=128_256 * 4096,
    layers=32,
    kv_heads=8,
    head_dim=128,
    context=131_072,
    system="You are a helpful assistant.",
    sources={
        "hf BF16": LLAMA,
        "hf FP8": found(
            "nvidia/Llama-3.1-8B-Instruct-FP8", "42d9515ebd69eea3a87351d079c671c3c5ff0a31", None, NVIDIA, CODE
        ),
        "hf NVFP4": found(
            "nvidia/Llama-3.1-8B-Instruct-NVFP4", "bdb54e24298451af785c0ac63c1b485e9b7400a2", 6_027_861_376, NVIDIA,
            CODE + "; size as measured in public code under its earlier name, …-FP4",
        ),
        "gguf BF16": found(
            "unsloth/Llama-3.1-8B-Instruct-GGUF", "600b0020115fd6b17f0752848fe7b5a1be686bcd", 16_068_895_872, LLAMA31,
            CODE + "; name and size from public code that checks them", file="Llama-3.1-8B-Instruct-BF16.gguf",
        ),
        "gguf Q8_0": found(
            "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "bf5b95e96dac0462e2a09145ec66cae9a3f12067", 8_540_775_840,
            LLAMA31, A_LIST, file="Meta-Llama-3.1-8B-Instruct-Q8_0.gguf",
        ),
        "gguf Q4_0": found(
            "unsloth/Llama-3.1-8B-Instruct-GGUF", "600b0020115fd6b17f0752848fe7b5a1be686bcd", None, LLAMA31,
            CODE + "; file name from a public list of models", file="Llama-3.1-8B-Instruct-Q4_0.gguf",
        ),
    },
    drafts={
        "vllm EAGLE-3": EAGLE3_VLLM,
        "sglang EAGLE-3": EAGLE3_SGLANG,
        "trtllm EAGLE-3": EAGLE3_TRTLLM,
        "vllm draft model": DRAFT_1B,
        "sglang draft model": DRAFT_1B,
        "llamacpp draft model": DRAFT_1B_GGUF,
    },
    note="the published Spark figures, NVIDIA's playbooks and the EAGLE-3 heads are for this model",
)  # fmt: skip

QWEN_REVISION = "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e"
QWEN_GGUF = ("unsloth/Qwen3-1.7B-GGUF", "d7f544eead698dbd1f15126ef60b45a1e1933222")
QWEN_HEAD = found(
    "AngelSlim/Qwen3-1.7B_eagle3", "94441b48acc5804677ae12259617c83323b543a9", None,
    "custom, see its card", CODE + "; the licence as a public note tells it",
)  # fmt: skip
QWEN_DRAFT = found("Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca", None, APACHE, CODE)
QWEN_1B = CatalogueEntry(
    name="qwen3-1.7b",
    parameters=1_720_574_976,
    lookup=0,  # one matrix for input and output
    output=151_936 * 2048,
    layers=28,
    kv_heads=8,
    head_dim=128,
    context=40_960,
    # Qwen3's switch in the message: without it the answer begins with a chain of thought.
    system="You are a helpful assistant. /no_think",
    sources={
        "hf BF16": found("Qwen/Qwen3-1.7B", QWEN_REVISION, None, APACHE, CODE),
        "gguf BF16": found(*QWEN_GGUF, 3_447_349_568, APACHE, A_LIST, file="Qwen3-1.7B-BF16.gguf"),
        "gguf Q8_0": found(*QWEN_GGUF, 1_834_426_944, APACHE, A_LIST, file="Qwen3-1.7B-Q8_0.gguf"),
        "gguf Q4_0": found(*QWEN_GGUF, 1_056_782_912, APACHE, A_LIST, file="Qwen3-1.7B-Q4_0.gguf"),
    },
    drafts={
        "vllm EAGLE-3": QWEN_HEAD,
        "sglang EAGLE-3": QWEN_HEAD,
        "trtllm EAGLE-3": QWEN_HEAD,
        "vllm draft model": QWEN_DRAFT,
        "sglang draft model": QWEN_DRAFT,
    },
    note="small enough for a graphics card of 8 GB, asks for no account, and has an EAGLE-3 head",
)

QWEN_27B = CatalogueEntry(
    name="qwen3.8-27b",
    parameters=27_781_427_952,
    lookup=248_320 * 5120,
    output=248_320 * 5120,
    layers=16,  # of 64: the other 48 keep a state of fixed size instead of keys and values
    kv_heads=4,
    head_dim=256,
    context=262_144,
    system="You are a helpful assistant.",
    sources={
        "hf BF16": found(
            "Qwen/Qwen3.8-27B", "1d4bf0f2ff6012fd82039f2fa52739d0dd7c60c0", 55_563_006_776, APACHE, A_TREE
        ),
        "hf FP8": found(
            "Qwen/Qwen3.8-27B-FP8", "017b9c7af6b5689d5dd426a76e0bc077eb5ca20a", 30_866_866_928, APACHE, A_TREE
        ),
        "hf NVFP4": found(
            "nvidia/Qwen3.8-27B-NVFP4", "482ca0f3832238542f8f5295dde86b5f22711d80", 21_921_697_280, APACHE,
            A_TREE + "; NVIDIA's own recommendation for a Spark, October 2026",
        ),
    },
    note="NVIDIA's recommendation of October 2026; KV heads, head size and vocabulary as published for Qwen3.5-27B",
)  # fmt: skip

CATALOGUE: tuple[CatalogueEntry, ...] = (LLAMA_8B, QWEN_1B, QWEN_27B)

# What a lab loads, by the keys of a model's sources and drafts. One model for all labs, so that a later lab
# fetches only what no earlier one had.
LOADS: Mapping[str, tuple[str, ...]] = {
    "3.3.1": ("hf BF16", "gguf BF16"),
    "3.3.2": ("hf BF16",),
    "3.3.3": ("hf BF16", "hf NVFP4"),
    "3.3.4": ("hf BF16", "gguf BF16", "sglang EAGLE-3", "vllm EAGLE-3", "llamacpp draft model"),
    "3.3.5": ("hf BF16",),
    "3.3.6": ("gguf BF16",),
}

"""What others published about a DGX Spark, and what the course outline says of the engines: quoted, never measured.

    published.record("3.3.1")       # into the ledger, each with its source and date
    published.figures(entries), published.confronted(entries, ...)      # as tables

Nobody who wrote this had a Spark. A figure of one owner is one report: believe it after you have measured it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from shared.engines import ENGINES
from shared.metrics.roofline import SPARK
from shared.metrics.spread import number
from shared.models.catalogue import LLAMA_8B
from shared.report.table import Table
from shared.results import ledger
from shared.results.reading import Entries, Entry


@dataclass(frozen=True)
class Quote:
    """One published result of one engine on one Spark; rates in tokens per second, None where none was given."""

    engine: str
    model: str
    precision: str
    prefill_tok_s: float | None
    decode_tok_s: float | None  # of one user
    many: tuple[int, float] | None  # (users at once, tok/s of all together)
    source: str
    date: str
    note: str = ""

    @property
    def key(self) -> str:
        words = f"{self.engine}-{self.model}-{self.precision}{'-mtp' if 'multi-token' in self.note else ''}"
        return "published/" + "-".join(words.lower().replace(".", "").split())


OWNER = "blog.kubesimplify.com, Running Qwen3.8-27B on DGX Spark, one owner"
LLAMACPP = "llama.cpp's benches/dgx-spark/dgx-spark.md, build 6989"
NVIDIA = "NVIDIA developer blog on DGX Spark performance, 2048 tokens in and 128 out; read"
FIELD_NOTES = "manavsehgal.github.io ai-field-notes, TensorRT-LLM on the Spark, one owner; read"

QUOTES = (
    # One owner, one machine, one week: the only source found in which four engines ran one model.
    Quote("ollama", "Qwen3.8-27B", "Q4_K_M", 731, 26.5, None, OWNER, "2026-08-17",
          "with multi-token prediction, which Ollama turned on by itself"),
    Quote("llamacpp", "Qwen3.8-27B", "UD-Q4_K_XL", 837, 11.6, None, OWNER, "2026-08-17"),
    Quote("vllm", "Qwen3.8-27B", "NVFP4", 1794, 11.5, (10, 84.3), OWNER, "2026-08-17"),
    Quote("vllm", "Qwen3.8-27B", "FP8", 1914, 8.2, (10, 57.9), OWNER, "2026-08-17"),
    Quote("sglang", "Qwen3.8-27B", "FP8", 1225, 7.7, (10, 54.3), OWNER, "2026-08-17"),
    Quote("llamacpp", "gpt-oss-20b", "MXFP4", 3714, 86.6, (32, 628), LLAMACPP, "2025-11-02"),
    Quote("llamacpp", "gpt-oss-120b", "MXFP4", 1919, 60.4, (32, 310), LLAMACPP, "2025-11-02"),
    Quote("vllm", "gpt-oss-120b", "MXFP4", None, 57.5, (32, 318.7),
          "kubis.ai, GPT-OSS-120B topology benchmark, one owner, with --enforce-eager", "2026-03-22"),
    Quote("llamacpp", "Qwen2.5-Coder-7B", "Q8_0", 2422, 30.3, (32, 611.5), LLAMACPP, "2025-11-02"),
    Quote("trtllm", "Llama-3.1-8B", "NVFP4", 10257, 38.7, None, NVIDIA, "2026-11"),
    Quote("trtllm", "Qwen3-14B", "NVFP4", 5929, 22.7, None, NVIDIA, "2026-11"),
    Quote("vllm", "Llama-3.1-8B", "FP8", None, 22.1, None, FIELD_NOTES, "2026-11",
          "NVIDIA's NIM, which is vLLM 0.10.1"),
)  # fmt: skip


@dataclass(frozen=True)
class Stars:
    """One row of the outline's overview of engines, and of its table of speeds with an 8B model."""

    engine: str
    prefill: int  # of five
    decode: int
    best_for: str
    prefill_tok_s: float
    decode_tok_s: float
    verdict: str  # what the quotes above say of it


OUTLINE = "module 3.3 of dgx-spark-ai-curriculum (Trosfy on GitHub), its README; read, 2026-11-25"
STARS = (
    Stars("ollama", 3, 4, "easy setup, model management", 3000, 45,
          "26.5 tok/s against llama.cpp's 11.6 with 4-bit weights of one model: Ollama speculated by itself, the other "
          "did not. Prefill, which drafts don't touch: 731 against 837."),
    Stars("llamacpp", 3, 5, "fastest decode, GGUF", 1500, 59,
          "With about as many bytes of weights it decodes as fast as vLLM: 11.6 (UD-Q4_K_XL, 17.9 GB) against 11.5 "
          "(NVFP4, about 16 GB). It led where its file was the smaller one."),
    Stars("vllm", 4, 4, "high throughput, batching", 5000, 40,
          "With FP8 weights it was ahead of SGLang for 10 users, 57.9 tok/s to 54.3 (84.3 in NVFP4, where nobody else "
          "was measured); with gpt-oss-120b level with llama.cpp for 32, 318.7 to 310. `--enforce-eager` is not needed "
          "any more."),
    Stars("trtllm", 5, 3, "best prefill, NVIDIA optimized", 10000, 38,
          "10,257 tok/s is the highest prefill rate that we found, for 8B in NVFP4. No other engine was published with "
          "this model in this precision, so nobody can say that it is the best."),
    Stars("sglang", 5, 4, "RadixAttention, speculative decoding, 29-45% faster", 6000, 42,
          "With the same FP8 weights, prompts that share nothing and no speculation, vLLM was ahead in all three: "
          "prefill 1,914 to 1,225, one user 8.2 to 7.7, ten users 57.9 to 54.3."),
)  # fmt: skip
LLAMA_8B_READ = LLAMA_8B.parameters - LLAMA_8B.lookup  # weights that a step reads
NOT_MEASURABLE = "not measurable here"  # of a CPU: it ranks the engines' CPU paths, not what they do on a GPU


def record(lab: str) -> None:
    """Each quote into the ledger, as what it is."""
    for quote in QUOTES:
        values = {name: value for name, value in asdict(quote).items() if name not in ("source", "date")}
        ledger.record(lab, quote.key, values, kind=f"quoted: {quote.source}, {quote.date}")
    for row in STARS:
        ledger.record(lab, f"outline/{row.engine}", asdict(row), kind=f"quoted: {OUTLINE}")


def quoted(entries: Entries, prefix: str) -> list[Entry]:
    return [entry for key, entry in entries.items() if key.startswith(prefix) and entry["kind"].startswith("quoted")]


def source(entry: Entry) -> str:
    return str(entry["kind"]).removeprefix("quoted: ")


def figures(entries: Entries) -> Table:
    """Every quote of the ledger, each with where it is from."""
    rows = []
    for entry in quoted(entries, "published/"):
        v = entry["values"]
        many = f"{number(v['many'][1])} ({v['many'][0]} users)" if v["many"] else "–"
        rates = (number(v[name]) if v[name] else "–" for name in ("prefill_tok_s", "decode_tok_s"))
        note = f"; {v['note']}" if v["note"] else ""
        rows.append((ENGINES[v["engine"]].title, f"{v['model']}, {v['precision']}", *rates, many, source(entry) + note))
    header = ("engine", "model", "prefill, tok/s", "one user, tok/s", "many, tok/s", "quoted from")
    return Table("Published for a DGX Spark", header, rows)


def stars(count: int) -> str:
    return "★" * count + "☆" * (5 - count)


def confronted(entries: Entries, bits: Callable[[float, float, float], float], here: str) -> Table:
    """The outline's rows beside what was published and what this machine can say of them (`here`).

    `bits` (decode tok/s, parameters, bandwidth in GB/s) says how many bits a weight can have had at that speed.
    """
    rows = []
    for entry in quoted(entries, "outline/"):
        v = entry["values"]
        most = bits(v["decode_tok_s"], LLAMA_8B_READ, SPARK.bandwidth_gb_s)
        rows.append((
            ENGINES[v["engine"]].title,
            f"{stars(v['prefill'])} {v['prefill_tok_s']:,} tok/s",
            f"{stars(v['decode'])} {v['decode_tok_s']} tok/s: at most {most:.1f} bits a weight",
            v["best_for"], here,
        ))  # fmt: skip
    header = ("engine", "outline: prefill", "outline: decode, 8B", "outline: best for", "this machine")
    return Table("The outline's stars, confronted", header, rows)


def verdicts(entries: Entries) -> str:
    """What was published since says of each row of the outline, as a list in Markdown."""
    said = (entry["values"] for entry in quoted(entries, "outline/"))
    return "\n".join(f"- **{ENGINES[v['engine']].title}:** {v['verdict']}" for v in said)

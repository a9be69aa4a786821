"""TTFT, TPOT and ITL as three other tools and these labs define them: the same words, different numbers.

Each function takes a Trace and returns milliseconds, or None where the trace doesn't hold what is needed. n is the
number of output tokens, t0 the moment of sending. A "chunk" is one event of the stream.

TTFT   vLLM bench      the first chunk, even if empty or only a role − t0
       GuideLLM        the first chunk with text − t0; AIPerf and these labs the same
TPOT   vLLM bench      (last chunk − first chunk) / (n − 1)
       GuideLLM        (last text − t0) / n, which includes TTFT
       these labs      (last text − first text) / (n − 1)
ITL    vLLM bench      every gap between chunks, pooled over the requests
       GuideLLM        (last text − first text) / (n − 1), one mean per request; AIPerf the same
       these labs      every gap, pooled, and only where each chunk is one token

vLLM's last chunk carries the finish reason and no text. So if an engine sends a role first, vLLM's TTFT is the
shorter one. If an engine sends the finish reason late, vLLM's TPOT is the larger one.

Sources: vLLM 0.32.0, vllm/benchmarks/lib/endpoint_request_func.py (async_request_openai_chat_completions) and
serve.py (calculate_metrics), read in the installed package on 2026-11-24. GuideLLM, src/guidellm/schemas/
request_stats.py (GenerativeRequestStats), read 2026-11-24. AIPerf 0.13.0, docs.nvidia.com/aiperf, "Metrics
Reference", read 2026-11-24: empty first responses don't count.
"""

from collections.abc import Callable
from itertools import pairwise

from shared.load.client import Trace

Figure = Callable[[Trace], float | None]


def vllm_ttft_ms(trace: Trace) -> float | None:
    return None if trace.first_choice_ns is None else (trace.first_choice_ns - trace.sent_ns) / 1e6


def vllm_tpot_ms(trace: Trace) -> float | None:
    if trace.first_choice_ns is None or trace.last_choice_ns is None or not several(trace):
        return None
    return (trace.last_choice_ns - trace.first_choice_ns) / 1e6 / ((trace.output_tokens or 0) - 1)


def guidellm_tpot_ms(trace: Trace) -> float | None:
    if not trace.output_tokens or not trace.chunks_ns:
        return None
    return (trace.chunks_ns[-1] - trace.sent_ns) / 1e6 / trace.output_tokens


def first_text_ms(trace: Trace) -> float | None:
    """The TTFT of GuideLLM, AIPerf and these labs."""
    return trace.ttft_ms


def between_texts_ms(trace: Trace) -> float | None:
    """The ITL of GuideLLM and AIPerf, and the TPOT of these labs: one mean per request."""
    return trace.tpot_ms


def gaps_ms(trace: Trace) -> tuple[float, ...]:
    """vLLM's ITLs, as far as a trace has them: gaps between chunks with text, whatever tokens each carries."""
    return tuple((later - earlier) / 1e6 for earlier, later in pairwise(trace.chunks_ns))


def several(trace: Trace) -> bool:
    """Whether there are at least two tokens and two chunks, and so a time between them."""
    return bool(trace.output_tokens and trace.output_tokens > 1 and len(trace.chunks_ns) > 1)


CONVENTIONS: dict[str, dict[str, Figure]] = {
    "vLLM bench": {"TTFT": vllm_ttft_ms, "TPOT": vllm_tpot_ms},
    "GuideLLM": {"TTFT": first_text_ms, "TPOT": guidellm_tpot_ms, "ITL": between_texts_ms},
    "AIPerf": {"TTFT": first_text_ms, "ITL": between_texts_ms},
    "these labs": {"TTFT": first_text_ms, "TPOT": between_texts_ms},
}

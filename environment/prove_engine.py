"""Prove that an installed engine works: it gives real answers, and the reference model judges them."""

import asyncio
import contextlib

from environment.install_steps import Job
from shared import LabError, hardware, models
from shared.engines.http import greedy_tokens
from shared.launch import launch
from shared.load import stream
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.metrics.correctness import gap_fault

FLAGS: dict[str, dict[str, object]] = {
    "ollama": {"OLLAMA_CONTEXT_LENGTH": 2048},
    "llamacpp": {"-c": 2048},
    "vllm": {"--max-model-len": 2048, "--enforce-eager": True},
    "sglang": {"--max-total-tokens": 4096, "--max-running-requests": 4},
}


def prove(job: Job, name: str, *precisions: str) -> str:
    """Start the engine, measure a first token, and judge its greedy text by the reference. Returns the figures.

    precisions: other weights with which it must answer, because they take other kernels.

    Raises LabError if a token lies further below the reference's best token than a correct engine's tokens do.
    """
    # Torch takes seconds to import and may not have been there when this program started.
    import torch

    from shared.models.llama import Llama, greedy_gap

    model = models.choose(hardware.detect())
    with contextlib.ExitStack() as stack:
        # A student waits for the first engine, so builds pause while it starts. Later ones start beside the builds.
        if job.first:
            stack.enter_context(job.quiet.hold())
        engine = stack.enter_context(launch(name, model, FLAGS[name], quiet=True))
        if not job.first:
            stack.enter_context(job.quiet.hold())
        body = {
            "model": engine.served_name,
            "messages": chat(model, "What is gravity?"),
            "max_tokens": 16,
            "temperature": 0,
        }
        trace = asyncio.run(stream(engine.url + "/v1/chat/completions", body))
        if trace.error:
            raise LabError(f"{engine.spec.title} did not answer its first question: {trace.error}.")
        job.say(f"{job.step.title}: first measured token: TTFT {trace.ttft_ms:.0f} ms")
        answers = [greedy_tokens(engine, chat(model, q), 48) for q in CHECK_QUESTIONS]
    for precision in precisions:
        job.doing = f"answering with {precision} weights"
        with launch(name, model, FLAGS[name], precision=precision, quiet=True):
            pass  # an engine is ready when it has answered
    job.doing = "judging its text by the reference"
    llama = Llama.load(model.weights("hf"), torch.float32)
    gaps: list[float] = []
    for question, (prompt_ids, tokens) in zip(CHECK_QUESTIONS, answers, strict=True):
        if prompt_ids != llama.prompt_ids(chat(model, question)):
            raise LabError(
                f"{job.step.title} and the reference turn {question!r} into different tokens: its template is wrong."
            )
        gaps += greedy_gap(llama, chat(model, question), tokens)
    if fault := gap_fault(gaps):
        raise LabError(f"{job.step.title} does not compute the model that it was given: {fault}.")
    return (
        f"proved: TTFT {trace.ttft_ms:.0f} ms, {len(answers)} greedy answers within {max(gaps):.3f} nats "
        "of the reference"
    )

"""llama.cpp as a library in this Python process, on the libraries that its server was built with.

    inside = llamacpp_library.load(model, context=2048)
    llamacpp_library.perplexity(model, "Q4_0")

Two uses: what a server costs one user, and how probable a model finds a text, which no server tells of a whole prompt.
"""

import math
import os
from typing import Any

import numpy as np

from shared import paths
from shared.errors import LabError
from shared.hardware.machine import detect
from shared.models.choice import ModelChoice

# A text of this course, unlike anything that a model was trained on.
TEXT = paths.REPO / "environment" / "OUTLINE.md"


def load(model: ModelChoice, precision: str = "BF16", context: int = 2048, every_logit: bool = False) -> Any:
    """A llama_cpp.Llama. Raises LabError where the labs have no such library, or no such file of the model."""
    libraries = paths.cache() / "engines" / "llamacpp" / "bin"
    if not (libraries / "libllama.so").exists():
        raise LabError(
            "llama.cpp's library is not on this machine: it is made where engines run without a container.",
            "make LABS_PROFILE=cpu engines",
        )
    os.environ["LLAMA_CPP_LIB_PATH"] = str(libraries)
    from llama_cpp import Llama

    cores = detect().cores
    return Llama(
        str(model.weights(precision)),
        n_ctx=context,
        n_threads=cores,
        n_threads_batch=cores,
        logits_all=every_logit,
        verbose=False,
    )


def perplexity(model: ModelChoice, precision: str, tokens: int = 512) -> float:
    """exp of the mean of −log p over a text's tokens, each given all before it. Raises LabError as `load` does.

    The longer the text before a token, the better it is guessed: the first 32 don't count. Lower is better; it
    compares precisions of one model, since another tokenizer cuts the text into other pieces.
    """
    inside = load(model, precision, tokens, every_logit=True)
    try:
        ids = inside.tokenize(TEXT.read_bytes(), add_bos=False)[:tokens]
        inside.eval(ids)
        logits = np.asarray(inside.scores[: len(ids) - 1], np.float64)  # [tokens − 1, vocabulary]: of the next token
    finally:
        inside.close()
    top = logits.max(1)
    log_total = top + np.log(np.exp(logits - top[:, None]).sum(1))
    log_p = logits[np.arange(len(logits)), ids[1:]] - log_total
    return math.exp(-float(log_p[32:].mean()))

"""llama.cpp as a library in this Python process, from the libraries that its server was built with.

    inside = llamacpp_library.load(model, context=2048)
    llamacpp_library.perplexity(model, "Q4_0")

It has two uses: to measure what a server costs one user, and to compute the probability that a model gives to a text,
which no server returns for a whole prompt.
"""

import math
import os
from typing import Any

import numpy as np

from shared import paths
from shared.errors import LabError
from shared.hardware.machine import detect
from shared.models.choice import ModelChoice

# A text of this course: no model was trained on it.
TEXT = paths.REPO / "environment" / "OUTLINE.md"


def load(model: ModelChoice, precision: str = "BF16", context: int = 2048, every_logit: bool = False) -> Any:
    """A llama_cpp.Llama. Raises LabError if the library isn't built, or the file of the model is missing."""
    libraries = paths.cache() / "engines" / "llamacpp" / "bin"
    if not (libraries / "libllama.so").exists():
        raise LabError(
            "llama.cpp's library is not on this machine: the set-up builds it only for engines without a container.",
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
    """The perplexity of a text: exp of the mean −log p of its tokens, each given all tokens before it.

    The first 32 tokens don't count, because a token with little text before it is hard to predict. Lower is better.
    Compare only precisions of one model, because another tokenizer splits the text differently. Raises LabError as
    `load` does.
    """
    inside = load(model, precision, tokens, every_logit=True)
    try:
        ids = inside.tokenize(TEXT.read_bytes(), add_bos=False)[:tokens]
        inside.eval(ids)
        logits = np.asarray(inside.scores[: len(ids) - 1], np.float64)  # of the next token: [tokens − 1, vocabulary]
    finally:
        inside.close()
    top = logits.max(1)
    log_total = top + np.log(np.exp(logits - top[:, None]).sum(1))
    log_p = logits[np.arange(len(logits)), ids[1:]] - log_total
    return math.exp(-float(log_p[32:].mean()))

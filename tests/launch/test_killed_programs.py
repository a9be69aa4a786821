"""No engine outlives the program that started it, killed while the engine answers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.engines import ENGINES
from tests.helpers.processes import left_by_a_killed_program

FLAGS: dict[str, dict[str, object]] = {
    "ollama": {"OLLAMA_NUM_PARALLEL": 1, "OLLAMA_CONTEXT_LENGTH": 1024},
    "llamacpp": {"-np": 1, "-c": 1024},
    "vllm": {"--max-num-seqs": 4, "--max-model-len": 1024, "--enforce-eager": True},
    "sglang": {"--max-running-requests": 4, "--max-total-tokens": 4096},
}


@pytest.mark.engine
def test_no_native_engine_outlives_its_program_killed_in_mid_stream() -> None:
    names = [name for name, spec in ENGINES.items() if spec.native]
    with ThreadPoolExecutor(len(names)) as all_at_once:  # most of the time is that of their starts
        left = all_at_once.map(lambda name: left_by_a_killed_program(name, FLAGS[name]), names)
        assert dict(zip(names, left, strict=True)) == {name: [] for name in names}

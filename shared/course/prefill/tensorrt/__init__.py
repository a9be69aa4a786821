"""TensorRT-LLM and TensorRT Edge-LLM as data: their commands, checked; nothing of it was run on hardware."""

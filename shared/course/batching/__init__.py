"""Lab 3.3.2: continuous batching, in the student's own engine and in vLLM."""

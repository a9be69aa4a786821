"""For instructors: what many students handed in, copied, and graded without running any of it."""

"""For instructors: copy what students handed in, and grade it without running any of it."""

"""Exercises, checks and milestones, and one room for each lab. Import its modules by name."""

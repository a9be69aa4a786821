"""The seven faults of a serving stack: what each changes, and which figures show it."""

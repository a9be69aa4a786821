"""Lab 3.3.1: the engines compared, and the report."""

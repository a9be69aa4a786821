"""Lab 3.3.3: ahead-of-time engines, and where the time of a prefill goes."""

"""Answers as students write them, one module per lab: what is wrong with each is what its hint must say.

ANSWERS = {"latencies_ms": [("only a role", wrong_function), ...]}      # (words of the hint, the answer)
RIGHT = {"latencies_ms": another_right_function}                        # not written as ours is
"""

"""The exercises of lab 3.3.5, in the order of its notebook. Each is a function in a file of gateway/."""

from shared.course.gateway.exercises import ask, feed, keys, leave_or_fail, pass_on

CORE = (ask.EXERCISE, pass_on.EXERCISE, leave_or_fail.LEAVE, feed.EXERCISE, leave_or_fail.FAIL)
EXERCISES = (*CORE, *keys.EXERCISES)

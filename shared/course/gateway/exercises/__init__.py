"""The exercises of lab 3.3.5, in the order of its notebook. Each is a function in a file of gateway/."""

from shared.course.gateway.exercises import counters_and_keys, streams

EXERCISES = (*streams.EXERCISES[:3], counters_and_keys.FEED, streams.EXERCISES[3], *counters_and_keys.EXTRAS)

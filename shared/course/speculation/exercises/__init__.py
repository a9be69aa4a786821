"""The exercises of lab 3.3.4, in the order of its notebook."""

from shared.course.speculation.exercises import acceptance, gain, look_up, loop, one_step

EXERCISES = (*acceptance.EXERCISES, one_step.EXERCISE, loop.EXERCISE, look_up.EXERCISE, *gain.EXERCISES)

"""The exercises of lab 3.3.3, in the order of its notebook."""

from shared.course.prefill.exercises import engine, work

EXERCISES = (*work.EXERCISES, *engine.EXERCISES)

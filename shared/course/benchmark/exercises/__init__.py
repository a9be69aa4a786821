"""The exercises of lab 3.3.1, in the order of its notebook."""

from shared.course.benchmark.exercises import arithmetic, figures, load_generator, traps

EXERCISES = (*load_generator.EXERCISES, *figures.EXERCISES, *arithmetic.EXERCISES, *traps.EXERCISES)

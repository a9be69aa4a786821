"""The exercises of lab 3.3.2, in the order of its notebook."""

from shared.course.batching.exercises import kv_cache_and_cost, one_step, scheduler

EXERCISES = (*scheduler.EXERCISES, *one_step.EXERCISES, *kv_cache_and_cost.EXERCISES)

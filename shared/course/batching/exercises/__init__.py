"""The exercises of lab 3.3.2, in the order of its notebook."""

from shared.course.batching.exercises import how_many_engines, kv_cache_and_cost, one_step, scheduler, tensor_parallel

EXERCISES = (
    *scheduler.EXERCISES,
    *one_step.EXERCISES,
    *kv_cache_and_cost.EXERCISES,
    *how_many_engines.EXERCISES,
    *tensor_parallel.EXERCISES,
)

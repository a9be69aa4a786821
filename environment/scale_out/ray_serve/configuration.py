"""The configuration of Ray Serve LLM (serve.toml), and what is wrong with one.

Ray finds most of these faults only after it has started, some of them by waiting for ever. They are found here without
Ray, so `make test` checks the file although it doesn't install Ray.

Sources, as of 2026-11-26: the configuration reference of Ray Serve LLM 2.60 (docs.ray.io, "Configuration reference":
fields of LLMConfig, deployment options, placement groups), and vLLM's published flags (environment/containers/cli).
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared import LabError, paths
from shared.engines.published_flags import unknown

FILE = Path(__file__).with_name("serve.toml")
VLLM = "python -m vllm.entrypoints.openai.api_server"

TABLES = {"ray": dict, "ingress": dict, "llm": dict}
RAY = {"num_cpus": int, "object_store_memory": int}  # of ray.init's arguments, those that may be set here
LLM_FIELDS = {
    "model_loading_config": dict, "engine_kwargs": dict, "accelerator_type": str, "accelerator_config": dict,
    "placement_group_config": dict, "deployment_config": dict, "lora_config": dict, "runtime_env": dict,
    "llm_engine": str, "server_cls": str, "experimental_configs": dict, "log_engine_metrics": bool,
    "callback_config": dict,
}  # fmt: skip
DEPLOYMENT = {
    "name": str, "num_replicas": int, "ray_actor_options": dict, "max_ongoing_requests": int,
    "autoscaling_config": dict, "max_queued_requests": int, "user_config": dict, "health_check_period_s": (int, float),
    "health_check_timeout_s": (int, float), "graceful_shutdown_wait_loop_s": (int, float),
    "graceful_shutdown_timeout_s": (int, float), "logging_config": dict, "request_router_config": dict,
}  # fmt: skip
PLACEMENT = {"bundles": list, "bundle_per_worker": dict, "strategy": str}
EXPERIMENTAL = {"stream_batching_interval_ms": (int, float), "num_ingress_replicas": int}
STRATEGIES = ("PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD")
# Engine arguments that another part of the system sets, and which one.
SET_ELSEWHERE = {
    "model": "model_loading_config names the model",
    "served_model_name": "model_loading_config names the model",
    "host": "the ingress listens, not the engine",
    "port": "the ingress listens, not the engine",
    "distributed_executor_backend": "Ray chooses it by what a replica books",
}
STORE_LEAST = 75 * 2**20  # bytes; Ray refuses less
MOST_REPLICAS = 8


def read(file: Path = FILE) -> dict[str, Any]:
    """The configuration in this file. Raises LabError that names every fault of it."""
    try:
        found = tomllib.loads(file.read_text())
    except OSError as e:
        raise LabError(f"{paths.show(file)} can't be read: {e.strerror}.", "name an existing file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise LabError(f"{paths.show(file)} is not TOML: {e}.", "correct this line") from None
    if wrong := faults(found):
        listed = "\n".join(f"  - {fault}" for fault in wrong)
        raise LabError(
            f"Ray Serve LLM can't be started with {paths.show(file)}:\n{listed}",
            f"correct the file; {paths.show(FILE)} in the repository is one that works",
        )
    return found


def faults(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with a configuration, as sentences; none if it can be used."""
    wrong = list(misfits("", given, TABLES))
    if wrong:
        return wrong
    ray, ingress, llm = given.get("ray", {}), given.get("ingress", {}), given.get("llm", {})
    wrong += misfits("ray.", ray, RAY)
    wrong += misfits("ingress.", ingress, DEPLOYMENT)
    wrong += misfits("llm.", llm, LLM_FIELDS)
    if wrong:
        return wrong
    wrong += misfits("llm.deployment_config.", llm.get("deployment_config", {}), DEPLOYMENT)
    wrong += misfits("llm.placement_group_config.", llm.get("placement_group_config", {}), PLACEMENT)
    wrong += misfits("llm.experimental_configs.", llm.get("experimental_configs", {}), EXPERIMENTAL)
    wrong += engine_faults(llm.get("engine_kwargs", {}))
    wrong += variable_faults(llm.get("runtime_env", {}))
    wrong += replica_faults(llm.get("deployment_config", {}).get("num_replicas", 1))
    if llm.get("log_engine_metrics", True) and llm.get("engine_kwargs", {}).get("disable_log_stats"):
        wrong.append("llm.engine_kwargs.disable_log_stats takes away what llm.log_engine_metrics exports")
    if ray.get("object_store_memory", STORE_LEAST) < STORE_LEAST:
        wrong.append(f"ray.object_store_memory is less than the {STORE_LEAST} bytes that Ray needs")
    return wrong or list(booking_faults(ray, ingress, llm))


def misfits(where: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Keys that the table doesn't know, and values of another type than it takes."""
    for key, value in given.items():
        if key not in known:
            yield f"there is no {where}{key}; known here: {', '.join(known)}"
        elif not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
            yield f"{where}{key} is {value!r}, but must be of type {' or '.join(kind.__name__ for kind in kinds)}"


def engine_faults(given: Mapping[str, Any]) -> list[str]:
    """Engine arguments that vLLM's published command line doesn't have, or that Ray sets itself."""
    wrong = [f"llm.engine_kwargs.{key} can't be set: {why}" for key, why in SET_ELSEWHERE.items() if key in given]
    for key, value in given.items():
        if key not in SET_ELSEWHERE:
            flag = "--" + key.replace("_", "-")
            words = [flag] if isinstance(value, bool) else [flag, str(value)]
            wrong += [f"llm.engine_kwargs.{key}: {fault}" for fault in unknown("vllm", words, VLLM)]
    return wrong


def variable_faults(given: Mapping[str, Any]) -> list[str]:
    """Ray passes environment variables on, and nothing else of a runtime environment is of use on one machine."""
    wrong = list(misfits("llm.runtime_env.", given, {"env_vars": dict}))
    variables = given.get("env_vars", {}) if not wrong else {}
    return wrong + [
        f"llm.runtime_env.env_vars.{name} is {value!r}, but must be a text: put it in quotes"
        for name, value in variables.items()
        if not isinstance(value, str)
    ]


def replica_faults(count: object) -> list[str]:
    """What is wrong with a number of replicas."""
    if isinstance(count, int) and 1 <= count <= MOST_REPLICAS:
        return []
    return [f"the number of replicas is {count!r}, but must be between 1 and {MOST_REPLICAS}"]


def booking_faults(ray: Mapping[str, Any], ingress: Mapping[str, Any], llm: Mapping[str, Any]) -> Iterator[str]:
    """Bookings that can never be met. Ray would wait for them without an error.

    A replica books the bundles of its engine and 1 CPU for its own actor, an ingress 1 CPU.
    """
    placement = llm.get("placement_group_config", {})
    strategy = placement.get("strategy", "PACK")
    if strategy not in STRATEGIES:
        yield f"llm.placement_group_config.strategy is {strategy!r}, but must be one of {', '.join(STRATEGIES)}"
    on_cpu = llm.get("accelerator_config", {}).get("kind") == "cpu"
    usual = {"CPU": 1} if on_cpu else {"GPU": 1}  # what Ray books where nothing is named
    bundles = placement.get("bundles", [placement.get("bundle_per_worker", usual)])
    if not bundles or not all(isinstance(one, dict) and all(number(v) for v in one.values()) for one in bundles):
        yield f"llm.placement_group_config holds {bundles!r}, but a bundle is a table of numbers such as {{CPU = 1}}"
        return
    if any(one.get("GPU") for one in bundles):
        yield (
            "a replica books a GPU, as it does where llm.placement_group_config names no bundle, but this vLLM is the "
            "build for processors: bundles = [{ CPU = 1 }]"
        )
    replicas = llm.get("deployment_config", {}).get("num_replicas", 1)
    asked = replicas * (1 + sum(one.get("CPU", 0) for one in bundles)) + ingress.get("num_replicas", 1)
    if "num_cpus" in ray and asked > ray["num_cpus"]:
        yield (
            f"{replicas} replicas and their ingress book {asked} CPUs, but ray.num_cpus is {ray['num_cpus']}: "
            "Ray would wait for ever"
        )


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def with_replicas(given: Mapping[str, Any], replicas: int | None) -> dict[str, Any]:
    """The configuration with this number of replicas (None: the file's own). Raises LabError if it can't be met."""
    if replicas is None:
        return dict(given)
    llm = given.get("llm", {})
    deployment = {**llm.get("deployment_config", {}), "num_replicas": replicas}
    found = {**given, "llm": {**llm, "deployment_config": deployment}}
    if wrong := faults(found):
        raise LabError(f"Ray Serve LLM can't be started: {'; '.join(wrong)}.", "choose fewer replicas")
    return found


def replicas_of(given: Mapping[str, Any]) -> int:
    """How many replicas the configuration asks for."""
    return int(given.get("llm", {}).get("deployment_config", {}).get("num_replicas", 1))


def serving_args(given: Mapping[str, Any], model_id: str, source: str, dtype: str, threads: int) -> dict[str, Any]:
    """What `ray.serve.llm.build_openai_app` takes: the configuration, and what depends on the machine.

    `source` is the model's folder, and `threads` those that each replica computes with.
    """
    llm = dict(given.get("llm", {}))
    variables = llm.get("runtime_env", {}).get("env_vars", {})
    llm["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(threads), **variables}}
    llm["engine_kwargs"] = {"dtype": dtype, **llm.get("engine_kwargs", {})}
    llm["model_loading_config"] = {"model_id": model_id, "model_source": source, **llm.get("model_loading_config", {})}
    return {"llm_configs": [llm], "ingress_deployment_config": dict(given.get("ingress", {}))}

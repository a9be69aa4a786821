"""What two_sparks.toml describes: two DGX Sparks and the model that they serve together; and what is wrong with it."""

import ipaddress
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import LabError, paths
from shared.engines import ENGINES
from shared.launch import memory
from shared.models import ModelChoice

CONFIG = paths.REPO / "environment" / "scale_out" / "two_sparks.toml"
RAY = "2.60.0"
RAY_IMAGE = f"inference-engine-labs/vllm-ray:{RAY}"  # vLLM's image with Ray, built by a script


@dataclass(frozen=True)
class Spark:
    """One of the two machines."""

    address: str  # on the link
    interface: str  # that has this address
    rdma: tuple[str, ...]  # the RDMA devices of the port
    hub: str  # HF_HOME on this machine
    ssh: str = ""  # user@host; the head needs none
    gid_index: int | None = None

    def environment(self) -> dict[str, str]:
        """The variables that keep vLLM's, NCCL's and Gloo's connections on the link."""
        gid = {} if self.gid_index is None else {"NCCL_IB_GID_INDEX": str(self.gid_index)}
        return {
            "VLLM_HOST_IP": self.address,
            "NCCL_SOCKET_IFNAME": self.interface,
            "GLOO_SOCKET_IFNAME": self.interface,
            "NCCL_IB_HCA": ",".join(self.rdma),
            **gid,
        }


@dataclass(frozen=True)
class Pair:
    """Both machines, and what they serve."""

    head: Spark
    worker: Spark
    repository: str
    revision: str
    flags: Mapping[str, object]
    port: int
    master_port: int
    ray_port: int
    mtu: int  # bytes
    gpu: tuple[str, ...]
    model: ModelChoice
    precision: str
    needed: memory.Need  # on each machine
    memory_gib: float

    @property
    def snapshot(self) -> str:
        """The folder of the weights, below the hub's folder."""
        return f"hub/models--{self.repository.replace('/', '--')}/snapshots/{self.revision}"


def read(path: Path = CONFIG) -> Pair:
    """The pair that a file describes. Raises LabError with the key to change."""
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise LabError(f"{paths.show(path)} can't be read: {e}.", f"compare it with {paths.show(CONFIG)}") from None
    known = tomllib.loads(CONFIG.read_text())
    optional: dict[str, dict[str, Any]] = {"head": {"gid_index": 3, "ssh": ""}, "worker": {"gid_index": 3}}
    for key, example in known.items():
        same_shape(key, given.get(key), example, optional.get(key, {}), path)
    if extra := set(given) - set(known):
        raise wrong(path, f"it has a key {min(extra)!r} that nothing reads", f"choose from {', '.join(known)}")
    head, worker = (spark(name, given[name], path) for name in ("head", "worker"))
    if head.address == worker.address:
        raise wrong(path, "both machines have the same address on the link", "give each its own")
    if not worker.ssh or worker.ssh.startswith("-"):
        raise wrong(path, f"worker.ssh is {worker.ssh!r}", "write user@host of the worker")
    ports = [given[name] for name in ("port", "master_port", "ray_port")]
    if len(set(ports)) < len(ports) or not all(1024 <= port <= 65535 for port in ports):
        raise wrong(path, f"the ports are {ports}", "choose three different ones between 1024 and 65535")
    if not 1280 <= given["mtu"] <= 9216:
        raise wrong(path, f"mtu is {given['mtu']}", "9000, or 1500 if the link has no jumbo frames")
    shape = given["model"]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", shape["repository"]) or not re.fullmatch("[0-9a-f]{40}", shape["revision"]):
        raise wrong(path, "model.repository or model.revision is malformed", "organisation/name, and 40 hex digits")
    if shape["kv_heads"] % 2:
        raise wrong(path, f"{shape['kv_heads']} KV heads can't be shared by two machines", "choose another model")
    name = shape["repository"].partition("/")[2]
    model = ModelChoice(
        name=name,
        folder=Path(),  # the weights are in each machine's hub folder
        gguf_folder=Path(),
        system="",
        parameters=0,  # the size of the weights is given in bytes
        layers=shape["layers"],
        kv_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        context=0,
        origin=f"{shape['repository']}@{shape['revision']}",
        local=False,
    )
    return Pair(
        head=head,
        worker=worker,
        repository=shape["repository"],
        revision=shape["revision"],
        flags=given["flags"],
        port=given["port"],
        master_port=given["master_port"],
        ray_port=given["ray_port"],
        mtu=given["mtu"],
        gpu=tuple(shlex.split(given["gpu"])),
        model=model,
        precision=shape["precision"],
        needed=memory_of_each(shape["bytes"], model, given["flags"], given["memory_gib"]),
        memory_gib=given["memory_gib"],
    )


def same_shape(key: str, value: Any, example: Any, optional: Mapping[str, Any], path: Path) -> None:
    """Raise LabError unless a value has the kind, and a table the keys, of the example."""
    if key == "flags":
        if not isinstance(value, dict):
            raise wrong(path, "the table [flags] is missing", "add it, even if it is empty")
        return
    kinds = (int, float) if isinstance(example, int | float) else (type(example),)
    if not isinstance(value, kinds) or isinstance(value, bool):
        found = "is missing" if value is None else f"is {value!r}"
        raise wrong(path, f"{key} {found}", f"write it as in {paths.show(CONFIG)}: {example!r}")
    if isinstance(example, dict):
        assert isinstance(value, dict)
        known = {**optional, **example}
        if extra := set(value) - set(known):
            raise wrong(path, f"[{key}] has a key {min(extra)!r} that nothing reads", f"choose from {', '.join(known)}")
        for inner, example_inside in known.items():
            if inner in value or inner in example:
                same_shape(f"{key}.{inner}", value.get(inner), example_inside, {}, path)


def spark(name: str, given: Mapping[str, Any], path: Path) -> Spark:
    """One machine's table. Raises LabError with the value that can't be right."""
    try:
        ipaddress.IPv4Address(given["address"])
    except ValueError:
        raise wrong(path, f"{name}.address is {given['address']!r}", "write an IPv4 address of the link") from None
    names = [given["interface"], *given["rdma"]]
    if not given["rdma"] or not all(isinstance(one, str) and re.fullmatch(r"[\w.-]{1,64}", one) for one in names):
        raise wrong(
            path, f"{name}.interface or {name}.rdma is malformed", "`ip -br link` and `rdma link` list the names"
        )
    if not given["hub"].startswith("/"):
        raise wrong(path, f"{name}.hub is {given['hub']!r}", "write the whole path of HF_HOME on that machine")
    return Spark(**{**given, "rdma": tuple(given["rdma"])})


def wrong(path: Path, what: str, fix: str) -> LabError:
    """The error of a file that can't be used."""
    return LabError(f"In {paths.show(path)}, {what}.", fix)


def memory_of_each(weight_bytes: float, model: ModelChoice, flags: Mapping[str, object], there: float) -> memory.Need:
    """The memory that vLLM needs on each machine: half of the weights and of the KV cache. Raises LabError if it is too
    much, or if the flags don't limit the KV cache."""
    way = ENGINES["vllm"].container
    kv_bytes = way.kv_bytes(model, flags)
    if kv_bytes is None:
        raise LabError("The flags set no limit for the KV cache.", f"set {way.bound_by} in the table [flags]")
    halves = (weight_bytes / 2 / 2**30, kv_bytes / 2 / 2**30)
    needed = memory.Need("vLLM on each Spark", *halves, way.overhead_gib, memory.SPARK_RESERVE_GIB)
    if needed.total > there:
        raise LabError(
            f"{needed}, but a machine has {there} GiB. Where memory runs out, a Spark freezes.",
            "choose a smaller model or precision, or lower --max-num-seqs or --max-model-len",
        )
    return needed

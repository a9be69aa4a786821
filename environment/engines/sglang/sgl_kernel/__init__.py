"""A replacement for SGLang's compiled kernels on a processor.

SGLang imports many names from `sgl_kernel` and its submodules, most of them for GPUs. This package lets every name be
imported. Calling one that is not supplied raises NotImplementedError with its name, so nothing is silently computed
wrongly. The labs start SGLang with torch's own attention and sampling, and that path calls none of them.

Supplied, as functions of torch, are those that SGLang calls when it speculates with an EAGLE-3 head: the bookkeeping of
its worker (_speculation.py) and the attention of its `intel_amx` backend (_attention.py). They are right, and slower
than compiled kernels: only the text and the acceptance of such a run are facts about SGLang, not its speed.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

import torch

from ._attention import decode_attention_cpu, extend_attention_cpu
from ._speculation import (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_draft_decode_metadata_cpu,
    build_tree_kernel_efficient_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_accept_out_cache_loc_cpu,
    fill_bonus_tokens_cpu,
    verify_tree_greedy_cpu,
)

__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_draft_decode_metadata_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "verify_tree_greedy_cpu",
]

__version__ = "0.4.10"  # the oldest version that SGLang 0.5.23 accepts


class Missing:
    """A kernel that is not supplied. Its attributes are missing kernels too, as in `torch.ops`-like chains."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name

    def __getattr__(self, name: str) -> "Missing":
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self.__name__}.{name}")

    def __call__(self, *_: object, **__: object) -> None:
        raise NotImplementedError(f"sgl_kernel stand-in: {self.__name__} is not supplied on a processor")


class Submodule(ModuleType):
    """`sgl_kernel.anything`: each of its attributes is a missing kernel."""

    __path__ = []  # noqa: RUF012 - marks it as a package, so that it has submodules itself

    def __getattr__(self, name: str) -> Missing:
        return missing(self.__name__, name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every submodule of `sgl_kernel`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.startswith("sgl_kernel."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Submodule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def missing(module: str, name: str) -> Missing:
    if name.startswith("__"):  # Python itself looks these up, and expects that an ordinary module lacks them
        raise AttributeError(name)
    return Missing(f"{module}.{name}")


def __getattr__(name: str) -> Missing:
    return missing(__name__, name)


sys.meta_path.append(Finder())
torch.ops.sgl_kernel.decode_attention_cpu = decode_attention_cpu  # where SGLang looks for these two
torch.ops.sgl_kernel.extend_attention_cpu = extend_attention_cpu

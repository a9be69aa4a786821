"""Stands in for SGLang's compiled kernels on a processor.

SGLang imports names from `sgl_kernel` and its submodules all over, most for GPUs. Here every name can be
imported; calling one raises NotImplementedError with its name, so nothing is computed wrongly in silence.
On the path that the labs start (torch's own attention and sampling) none is called.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__version__ = "0.4.10"  # what SGLang 0.5.23 asks for at least


class Missing:
    """A kernel by name. Its attributes are missing kernels too, as in `torch.ops`-like chains."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name

    def __getattr__(self, name: str) -> "Missing":
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self.__name__}.{name}")

    def __call__(self, *_: object, **__: object) -> None:
        raise NotImplementedError(f"sgl_kernel stand-in: {self.__name__} is not supplied on a processor")


class Submodule(ModuleType):
    """`sgl_kernel.anything`: whatever is asked of it is missing."""

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
    if name.startswith("__"):  # asked by Python itself: a module without it is what it expects
        raise AttributeError(name)
    return Missing(f"{module}.{name}")


def __getattr__(name: str) -> Missing:
    return missing(__name__, name)


sys.meta_path.append(Finder())

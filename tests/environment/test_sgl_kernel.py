"""The stand-in for SGLang's kernels: everything can be imported, nothing is computed wrongly in silence."""

import importlib
import sys
from collections.abc import Iterator

import pytest

from shared import paths


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(paths.REPO / "environment" / "engines" / "sglang"))
    finders = list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.split(".")[0] == "sgl_kernel"]:
        del sys.modules[name]


def test_a_kernel_that_is_not_supplied_raises_by_name() -> None:
    from sgl_kernel import rmsnorm
    from sgl_kernel.flash_attn import flash_attn_varlen_func

    with pytest.raises(NotImplementedError, match=r"stand-in: sgl_kernel\.rmsnorm is not supplied"):
        rmsnorm(1, 2)
    with pytest.raises(NotImplementedError, match=r"sgl_kernel\.flash_attn\.flash_attn_varlen_func"):
        flash_attn_varlen_func()


def test_chains_of_names_lead_to_one_that_raises() -> None:
    import sgl_kernel

    with pytest.raises(NotImplementedError, match=r"sgl_kernel\.ops\.attention\.decode"):
        sgl_kernel.ops.attention.decode()


def test_python_sees_an_ordinary_package() -> None:
    module = importlib.import_module("sgl_kernel")
    assert not hasattr(module, "__wrapped__")
    assert not hasattr(importlib.import_module("sgl_kernel.sampling"), "__file__")
    assert module.__version__

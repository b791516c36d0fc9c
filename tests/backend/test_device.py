"""Where arrays live: namespaces, the switch, transfers, and what is said when devices meet."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import backend
from tinygrad_edu.backend import device
from tinygrad_edu.errors import DeviceError

from .. import strict_cupy


def test_namespace_follows_the_data(strict_cuda: Any) -> None:
    here, there = np.ones(3), strict_cuda.ones(3)
    assert backend.namespace(here) is np
    assert backend.namespace(there) is strict_cuda
    assert backend.namespace(None, here, None) is np
    assert backend.device_of(here) == "cpu"
    assert backend.device_of(there) == "cuda"


def test_arrays_of_two_devices(strict_cuda: Any) -> None:
    wanted = "arrays of two devices met: array 2 is on 'cuda', the one before it on 'cpu'. Move one with "
    with pytest.raises(DeviceError, match=re.escape(wanted + "tg.backend.to_device(array, device)")):
        backend.namespace(np.ones(3), None, strict_cuda.ones(3))


@pytest.mark.parametrize("value, kind", [([1.0], "builtins.list"), (1.0, "builtins.float"), ("x", "builtins.str")])
def test_what_is_no_array(value: Any, kind: str) -> None:
    with pytest.raises(DeviceError, match=f"expected a NumPy or CuPy array, got {kind}. Convert it first"):
        backend.namespace(value)
    with pytest.raises(DeviceError, match=r"namespace\(\) needs at least one array"):
        backend.namespace(None, None)


def test_relatives_of_numpy_arrays(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "x", dtype="float32", mode="w+", shape=(3,))
    assert backend.namespace(mapped) is np
    assert backend.namespace(np.float32(1)) is np


def test_the_switch_sets_where_new_arrays_are_made(strict_cuda: Any) -> None:
    assert backend.current_device() == "cpu"
    with tg.use("cuda") as chosen:
        assert chosen == "cuda"
        for made in (
            backend.zeros(2),
            backend.ones(2),
            backend.empty(2),
            backend.full((2,), 3.0),
            backend.array([1.0]),
            backend.asarray(np.ones(2)),
        ):
            assert backend.device_of(made) == "cuda"
        assert backend.device_of(tg.layers.Linear(2, 2).weight.data) == "cuda"
        with tg.use("cpu"):
            assert backend.device_of(backend.zeros(2)) == "cpu"
        assert backend.current_device() == "cuda"
    assert backend.current_device() == "cpu"


def test_the_switch_goes_back_after_an_error(strict_cuda: Any) -> None:
    with pytest.raises(KeyError), tg.use("cuda"):
        raise KeyError
    assert backend.current_device() == "cpu"


def test_without_with_the_switch_stays(strict_cuda: Any) -> None:
    assert repr(tg.use("cuda")) == "<using 'cuda'>"
    assert backend.current_device() == "cuda"
    tg.use("cpu")
    assert backend.current_device() == "cpu"


def test_unknown_and_absent_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="device must be 'cpu', 'cuda' or 'auto', got 'gpu'"):
        tg.use("gpu")
    with pytest.raises(DeviceError, match="device must be 'cpu' or 'cuda', got 'tpu'"):
        backend.to_device(np.ones(2), "tpu")
    monkeypatch.setattr(device, "_import_cupy", lambda: (None, "there is none"))
    monkeypatch.setattr(device, "_modules", {"cpu": np})
    for call in (lambda: tg.use("cuda"), lambda: backend.to_device(np.ones(2), "cuda")):
        with pytest.raises(DeviceError, match="device 'cuda' is not available: there is none"):
            call()
    with pytest.raises(DeviceError, match="device 'cuda' is not available: there is none"):
        tg.layers.Linear(2, 2).to("cuda")
    assert tg.use("auto").device == "cpu"
    assert backend.current_device() == "cpu"


def test_a_broken_cupy_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        @staticmethod
        def getDeviceCount() -> int:
            raise RuntimeError("no driver")

    broken = type("cupy", (), {"cuda": type("cuda", (), {"runtime": Runtime})})
    monkeypatch.setitem(sys.modules, "cupy", broken)
    assert device._import_cupy() == (None, "CuPy is installed but finds no CUDA device (no driver)")
    assert not backend.cuda_available()
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "install the extra: pip install 'tinygrad_edu[cuda]'" in device._import_cupy()[1]


def test_transfers(strict_cuda: Any) -> None:
    x = np.arange(6.0).reshape(2, 3)
    there = backend.to_device(x, "cuda")
    assert backend.to_device(there, "cuda") is there
    assert backend.to_device(x, "cpu") is x
    np.testing.assert_array_equal(backend.to_host(there), x)
    assert backend.to_host(x) is x
    np.testing.assert_array_equal(backend.to_host([1, 2]), [1, 2])
    like = backend.zeros_like(there)
    assert backend.device_of(like) == "cuda" and like.shape == (2, 3)
    assert backend.empty_like(x.T).flags.c_contiguous


def test_an_array_is_a_copy_and_asarray_is_not() -> None:
    x = np.ones(3, dtype="float32")
    assert backend.array(x) is not x
    assert backend.asarray(x) is x
    assert backend.asarray(x, dtype="float64").dtype == np.float64
    assert backend.asarray([1, 2], dtype="float32").dtype == np.float32


def test_torch_tensors_come_to_the_host() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 3, requires_grad=True)
    np.testing.assert_array_equal(backend.to_host(tensor), np.ones((2, 3)))


def test_synchronize_without_a_gpu_is_nothing() -> None:
    backend.synchronize()


def test_importing_loads_neither_cupy_nor_numba_nor_torch() -> None:
    code = (
        "import sys, tinygrad_edu as tg; tg.layers; tg.losses; tg.optim; tg.check\n"
        "print(sorted({'cupy', 'numba', 'torch', 'matplotlib', 'datasets', 'tokenizers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


class TestTheStandIn:
    """The stand-in must refuse what it promises to, or the tests that lean on it say nothing."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda xp, a: np.asarray(a),
            lambda xp, a: np.exp(a),
            lambda xp, a: np.concatenate([a, a]),
            lambda xp, a: np.ones(3) + a,
            lambda xp, a: a + np.ones(3),
            lambda xp, a: a * np.ones(()),
            lambda xp, a: xp.exp(np.ones(3)),
            lambda xp, a: xp.where(a > 0, a, np.ones(3)),
            lambda xp, a: a[np.array([0, 1])],
            lambda xp, a: a.__setitem__(0, np.ones(())),
            lambda xp, a: a.__iadd__(np.ones(3)),
            lambda xp, a: xp.add.at(a, np.array([0]), a[:1]),
            lambda xp, a: a.sum(where=a > 0),
            lambda xp, a: xp.sum(a, initial=0.0),
        ],
    )
    def test_refuses(self, strict_cuda: Any, call: Any) -> None:
        with pytest.raises(TypeError):
            call(strict_cuda, strict_cuda.ones(3))

    @pytest.mark.parametrize("name", ["errstate", "insert", "block", "nothing"])
    def test_lacks_what_cupy_lacks(self, strict_cuda: Any, name: str) -> None:
        with pytest.raises(AttributeError, match=f"module 'cupy' has no attribute '{name}'"):
            getattr(strict_cuda, name)

    def test_reductions_stay_on_the_device(self, strict_cuda: Any) -> None:
        total = strict_cuda.ones(3).sum()
        assert type(total) is strict_cuda.ndarray and total.shape == ()
        assert float(total) == 3
        assert type(strict_cuda.ones(3)[0]) is strict_cuda.ndarray

    def test_leaves_no_trace(self) -> None:
        before = dict(device._modules), set(device._namespaces)
        with strict_cupy.strict_cuda():
            assert "cuda" in device._modules
        assert (dict(device._modules), set(device._namespaces)) == before

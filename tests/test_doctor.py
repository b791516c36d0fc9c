"""The doctor's judgement over made-up machines, the GPU's states with a made-up CuPy, and one real run."""

from __future__ import annotations

import builtins
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinygrad_edu import doctor, runtime
from tinygrad_edu.doctor import facts as facts_module
from tinygrad_edu.doctor import gemm, gpu
from tinygrad_edu.doctor.facts import Blas, Facts, Memory, NumbaState
from tinygrad_edu.doctor.gpu import Gpu
from tinygrad_edu.machine import AVX2, AVX512, Cores, CpuInfo
from tinygrad_edu.runtime import Setting

ZEN5 = CpuInfo("AuthenticAMD", "AMD EPYC", AVX512 | AVX2)
HASWELL = CpuInfo("GenuineIntel", "Xeon E5 v3", AVX2)

SOUND = Facts(
    python="3.12.1",
    system="Linux 6.1 (x86_64)",
    packages={"numpy": "2.4.6", "numba": "0.68.1", "torch": None},
    cpu=ZEN5,
    cores=Cores(2, 2),
    load=0.1,
    memory=Memory(16 << 30, 12 << 30),
    settings=(Setting("malloc", "arrays up to 64 MB stay in the heap", "library", "reuse"),),
    blas=Blas("openblas", "0.3.31", "SkylakeX", 2, "pthreads"),
    numba=NumbaState("omp", 2),
    rates=gemm.Rates(450, 230, {"automatic": 455, "SkylakeX": 460}),
)
SMI = "NVIDIA H100, 580.95.05"
OLD_SMI = "Tesla T4, 550.54.15"
NO_DEVICE = Gpu("no-device", "CUDARuntimeError: no device", packages=("cupy-cuda13x",), cupy="14.2.0")


def blas(**changes: Any) -> dict[str, Any]:
    return {"blas": replace(SOUND.blas, **changes)}


def rates(*args: Any) -> dict[str, Any]:
    return {"rates": gemm.Rates(*args)}


# name: (what differs from a sound machine, level, topic, part of the text, the line that mends it)
CASES: dict[str, tuple[dict[str, Any], str, str, str, str | None]] = {
    "package missing": (
        {"packages": {"numpy": "2.4", "numba": None, "PyYAML": None, "torch": None}},
        *("wrong", "packages", "not installed: numba, PyYAML", "python -m pip install numba PyYAML"),
    ),
    "numpy first": (
        {"numpy_was_loaded_first": True},
        *("slow", "import order", "before tinygrad_edu", "import tinygrad_edu  # above `import numpy`"),
    ),
    "core type too old": (
        {"environment": {"OPENBLAS_CORETYPE": "Haswell"}},
        *("slow", "BLAS", "to AVX2 on a CPU that has AVX-512", "unset OPENBLAS_CORETYPE"),
    ),
    "core type too new": (
        {"environment": {"OPENBLAS_CORETYPE": "SkylakeX"}, "cpu": HASWELL},
        *("wrong", "BLAS", "may crash", "unset OPENBLAS_CORETYPE"),
    ),
    "core type on Windows": (
        {"environment": {"OPENBLAS_CORETYPE": "Haswell"}, "windows": True},
        *("slow", "BLAS", "AVX-512", "set OPENBLAS_CORETYPE="),
    ),
    "core type set, other library": (
        {
            "environment": {"OPENBLAS_CORETYPE": "Haswell"},
            **blas(library="mkl", version="2025.1", kernels=None),
        },
        *("ok", "BLAS", "mkl 2025.1", None),
    ),
    "no BLAS": (
        {"blas": None},
        *("slow", "BLAS", "without a BLAS library", "python -m pip install --force-reinstall numpy"),
    ),
    "more threads than the quota": (
        {"cores": Cores(64, 64, 2.0), **blas(threads=64)},
        *("slow", "BLAS threads", "64 threads on 2 usable cores", "export OPENBLAS_NUM_THREADS=2"),
    ),
    "fewer threads, by the user": (
        {"cores": Cores(8, 8), "environment": {"OMP_NUM_THREADS": "2"}},
        *("slow", "BLAS threads", "2 of 8 usable cores, for OMP_NUM_THREADS=2", "unset OMP_NUM_THREADS"),
    ),
    "fewer Numba threads": (
        {"numba": NumbaState("omp", 1)},
        *("slow", "Numba threads", "1 of 2 usable cores", "export NUMBA_NUM_THREADS=2"),
    ),
    "threads as they should be": ({}, "ok", "BLAS threads", "2, one for each usable core", None),
    "threads that spin": (
        {"environment": {"OMP_WAIT_POLICY": "ACTIVE"}},
        *("slow", "idle threads", "OMP_WAIT_POLICY=ACTIVE", "unset OMP_WAIT_POLICY"),
    ),
    "Numba broken": (
        {"numba": NumbaState(error="ImportError: LLVM is missing")},
        *("slow", "Numba", "LLVM is missing", "python -m pip install --force-reinstall numba"),
    ),
    "JIT off": (
        {"numba": NumbaState(jit=False, threads=2)},
        *("slow", "Numba", "NUMBA_DISABLE_JIT is set", "unset NUMBA_DISABLE_JIT"),
    ),
    "workqueue": (
        {"numba": NumbaState("workqueue", 2)},
        *("note", "Numba", "two Python threads", "python -m pip install tbb"),
    ),
    "workqueue on a Mac": (
        {"numba": NumbaState("workqueue", 2), "system": "Darwin 24 (arm64)"},
        *("note", "Numba", "two Python threads", None),
    ),
    "kernels off": (
        {"environment": {"TINYGRAD_EDU_KERNELS": "off"}},
        *("slow", "kernels", "the readable ops run", "unset TINYGRAD_EDU_KERNELS"),
    ),
    "malloc off": (
        {"settings": (Setting("malloc", "default", "user", "TINYGRAD_EDU_MALLOC=off"),)},
        *("note", "allocator", "left as it is for TINYGRAD_EDU_MALLOC", "unset TINYGRAD_EDU_MALLOC"),
    ),
    "malloc of the user": (
        {"settings": (Setting("malloc", "MALLOC_TOP_PAD_=4096", "user", "set in the environment"),)},
        *("note", "allocator", "left as it is for MALLOC_TOP_PAD_", "unset MALLOC_TOP_PAD_"),
    ),
    "little memory": ({"memory": Memory(4 << 30, 1 << 29)}, "slow", "memory", "only 0.5 GiB free", None),
    "rate as it should be": ({}, "ok", "matrix products", "450 GFLOP/s in float32, 98% of the best", None),
    "rate held down by the user": (
        {**rates(240, 120, {"automatic": 460}), "environment": {"OPENBLAS_CORETYPE": "Haswell"}},
        *("slow", "matrix products", "240 GFLOP/s in float32, 52% of the best", "unset OPENBLAS_CORETYPE"),
    ),
    "rate held down by OpenBLAS's own choice": (
        {**rates(240, 120, {"automatic": 242, "SkylakeX": 460})},
        *("slow", "matrix products", "52% of the best", "export OPENBLAS_CORETYPE=SkylakeX"),
    ),
    "rate low for another reason": (
        {**rates(240, 120, {"automatic": 455, "SkylakeX": 460})},
        *("slow", "matrix products", "52% of the best", None),
    ),
    "rate equal to the user's choice": (
        {
            **rates(300, 230, {"automatic": 240, "SkylakeX": 455}),
            "environment": {"OPENBLAS_CORETYPE": "SkylakeX"},
        },
        *("slow", "matrix products", "66% of the best", "export OPENBLAS_CORETYPE=SkylakeX"),
    ),
    "threads that bring nothing": (
        {**rates(240, 230, {"automatic": 240}), "load": 3.5},
        *("note", "matrix products", "2 threads are only 1.0 times as fast as one", None),
    ),
    "GPU works": (
        {"gpu": Gpu("works", devices=("H100, 80 GiB",), cupy="14.2.0", packages=("cupy-cuda13x",))},
        *("ok", "GPU", "CuPy 14.2.0 on H100, 80 GiB", None),
    ),
    "no GPU": ({}, "ok", "GPU", "no NVIDIA GPU and no CuPy; everything runs on the CPU", None),
    "GPU without CuPy": (
        {"gpu": Gpu("no-cupy", hardware=SMI)},
        *("slow", "GPU", "NVIDIA H100", "python -m pip install 'cupy-cuda13x[ctk]'"),
    ),
    "GPU with an older driver, without CuPy": (
        {"gpu": Gpu("no-cupy", hardware=OLD_SMI)},
        *("slow", "GPU", "Tesla T4", "python -m pip install 'cupy-cuda12x[ctk]'"),
    ),
    "CuPy broken": (
        {"gpu": Gpu("cupy-does-not-import", "ImportError: libfoo", packages=("cupy-cuda12x",))},
        *("wrong", "GPU", "libfoo", "python -m pip install --force-reinstall 'cupy-cuda12x[ctk]'"),
    ),
    "two CuPys": (
        {"gpu": Gpu("works", packages=("cupy-cuda12x", "cupy-cuda13x"))},
        *("wrong", "GPU", "2 copies of CuPy"),
        "python -m pip uninstall -y cupy-cuda12x cupy-cuda13x && python -m pip install 'cupy-cuda13x[ctk]'",
    ),
    "CuPy, no GPU": (
        {"gpu": NO_DEVICE},
        "note",
        "GPU",
        "finds no device (CUDARuntimeError: no device)",
        None,
    ),
    "GPU hidden": (
        {"gpu": replace(NO_DEVICE, hidden="", hardware=SMI)},
        *("note", "GPU", "CUDA_VISIBLE_DEVICES='' hides every GPU", "unset CUDA_VISIBLE_DEVICES"),
    ),
    "driver too old for CuPy": (
        {"gpu": replace(NO_DEVICE, hardware=OLD_SMI)},
        *("wrong", "GPU", "is too old for cupy-cuda13x"),
        "python -m pip uninstall -y cupy-cuda13x && python -m pip install 'cupy-cuda12x[ctk]'",
    ),
    "GPU not reachable": ({"gpu": replace(NO_DEVICE, hardware=SMI)}, "wrong", "GPU", "--gpus all", None),
    "GPU fails": (
        {"gpu": Gpu("device-fails", "OSError: libnvrtc", packages=("cupy-cuda13x",), cupy="14.2.0")},
        *("wrong", "GPU", "libnvrtc", "python -m pip install 'cupy-cuda13x[ctk]'"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_judgement(name: str):
    changes, level, topic, text, fix = CASES[name]
    findings = doctor.judge(replace(SOUND, **changes))
    about = [f for f in findings if f.topic == topic and text in f.text]
    assert [(f.level, f.fix) for f in about] == [(level, fix)], findings


def test_a_sound_machine_has_nothing_to_mend():
    assert {f.level for f in doctor.judge(SOUND)} == {"ok"}
    assert all(f.fix is None for f in doctor.judge(SOUND))


def test_nothing_known_is_no_reason_to_fail():
    for finding in doctor.judge(Facts()):
        assert finding.text


def rendered(report: doctor.Report) -> str:
    from rich.console import Console

    out = io.StringIO()
    doctor.show(report, Console(file=out, width=100, soft_wrap=True))
    return out.getvalue()


def test_report_shows_each_finding_and_its_line_unbroken():
    facts = replace(SOUND, gpu=CASES["two CuPys"][0]["gpu"], environment={"OPENBLAS_CORETYPE": "Haswell"})
    report = doctor.Report(facts, doctor.judge(facts))
    text = rendered(report)
    for finding in report.findings:
        assert finding.text in text
        if finding.fix:
            assert f"run: {finding.fix}\n" in text
    assert "2 findings to mend" in text
    assert "All is well." in rendered(doctor.Report(SOUND, doctor.judge(SOUND)))
    assert json.loads(json.dumps(report.as_dict()))["facts"]["cores"]["usable"] == 2


def fake_cupy(count: Any = 1, product: Any = None, kernel: Any = None) -> SimpleNamespace:
    """CuPy as far as the doctor looks at it, on NumPy. `count` may be an exception to raise."""

    def devices() -> int:
        if isinstance(count, Exception):
            raise count
        return count

    properties = {"name": b"NVIDIA H100", "totalGlobalMem": 80 << 30, "major": 9, "minor": 0}
    driver = SimpleNamespace(
        getDeviceCount=devices,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceProperties=lambda n: properties,
    )
    return SimpleNamespace(
        __version__="14.2.0",
        float32=np.float32,
        arange=np.arange,
        asnumpy=product or np.asarray,
        ElementwiseKernel=kernel or (lambda *a: lambda x: x * x),
        cuda=SimpleNamespace(runtime=driver),
    )


def broken(*_: Any) -> Any:
    raise RuntimeError("CUDA path could not be detected\nmore lines")


GPUS = {
    "works": (fake_cupy(), "works", ""),
    "no device": (fake_cupy(0), "no-device", "no CUDA device"),
    "no driver": (
        fake_cupy(RuntimeError("cudaErrorInsufficientDriver")),
        "no-device",
        "cudaErrorInsufficientDriver",
    ),
    "wrong numbers": (
        fake_cupy(product=lambda x: np.zeros((2, 2))),
        "device-fails",
        "product on the device is wrong",
    ),
    "no compiler": (
        fake_cupy(kernel=broken),
        "device-fails",
        "RuntimeError: CUDA path could not be detected",
    ),
    "kernel wrong": (
        fake_cupy(kernel=lambda *a: lambda x: x),
        "device-fails",
        "a kernel on the device is wrong",
    ),
}


@pytest.mark.parametrize("name", GPUS)
def test_gpu_states(name: str, monkeypatch: pytest.MonkeyPatch):
    module, state, detail = GPUS[name]
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(gpu, "_nvidia_smi", lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = gpu.examine_gpu()
    assert found.state == state
    assert detail in found.detail
    assert "\n" not in found.detail
    assert found.driver == 13000
    if state == "works":
        assert found.devices == ("NVIDIA H100, 80 GiB, compute capability 9.0",)
    assert doctor.judge(replace(SOUND, gpu=replace(found, packages=())))[-1].topic == "GPU"


IMPORT_ERRORS = [
    (ModuleNotFoundError("No module named 'cupy'", name="cupy"), "no-cupy", ""),
    (
        ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"),
        "cupy-does-not-import",
        "fastrlock",
    ),
    (ImportError("====\nCuPy is not correctly installed\n"), "cupy-does-not-import", "CuPy is not correctly"),
    (OSError("libcuda.so.1"), "cupy-does-not-import", "OSError: libcuda.so.1"),
]


@pytest.mark.parametrize(("error", "state", "detail"), IMPORT_ERRORS)
def test_gpu_states_without_cupy(error: Exception, state: str, detail: str, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cupy":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", importing)
    monkeypatch.setattr(gpu, "_nvidia_smi", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = gpu.examine_gpu()
    assert (found.state, found.hidden) == (state, "-1")
    assert detail in found.detail


def test_memory(tmp_path: Path):
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n")
    assert facts_module.memory(tmp_path / "meminfo", tmp_path) == Memory(1024000, 614400, None)
    (tmp_path / "memory.max").write_text("max\n")
    assert facts_module.memory(tmp_path / "meminfo", tmp_path).limit is None
    (tmp_path / "memory.max").write_text("512000\n")
    assert facts_module.memory(tmp_path / "meminfo", tmp_path).limit == 512000
    assert facts_module.memory(tmp_path / "none", tmp_path).available is None


def test_rates_are_measured_and_the_fresh_process_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")  # what the parent has must not reach the child
    assert gemm.rate(size=64, budget=0.01) > 0
    assert gemm.rate_in_fresh_process(None, size=64, budget=0.01) > 0
    monkeypatch.setattr(sys, "executable", str(Path(__file__).with_name("no-python")))
    assert gemm.rate_in_fresh_process(None, size=64) is None
    assert gemm.Rates(100, 50, {"automatic": 90, "SkylakeX": 120}).expected == 120
    assert gemm.Rates(100).expected == 100


def test_a_real_run():
    env = dict(os.environ, PYTHONPATH=str(Path(runtime.__file__).parents[1]))
    command = [sys.executable, "-m", "tinygrad_edu", "doctor", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    wrong = any(f["level"] == "wrong" for f in report["findings"])
    assert done.returncode == (1 if wrong else 0), done.stderr
    facts = report["facts"]
    assert facts["version"]
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["cores"]["usable"] >= 1
    assert facts["rates"]["expected"] >= facts["rates"]["here"] > 0
    assert facts["numba"]["error"] is None
    assert not facts["numpy_was_loaded_first"]
    topics = {f["topic"] for f in report["findings"]}
    assert {"packages", "BLAS", "BLAS threads", "Numba", "matrix products", "GPU"} <= topics


def test_without_measuring_no_rate_is_judged():
    report = doctor.examine(measure=False)
    assert report.facts.rates is None
    assert "matrix products" not in {f.topic for f in report.findings}
    assert rendered(report)

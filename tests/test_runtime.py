"""What is settled before NumPy loads, and that the user's own settings always win."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_edu import machine, runtime
from tinygrad_edu.machine import AVX2, AVX512, Cores, CpuInfo

ZEN5 = CpuInfo("AuthenticAMD", "AMD EPYC", AVX512 | AVX2)
HASWELL = CpuInfo("GenuineIntel", "Xeon E5 v3", AVX2)
OLD = CpuInfo("GenuineIntel", "Core 2", frozenset({"sse4_1"}))
UNKNOWN = CpuInfo("", "", frozenset())

SETTLED = ("OMP_", "GOMP_", "OPENBLAS_", "NUMBA_", "MALLOC_", "TINYGRAD_EDU_", "GLIBC_TUNABLES")

REPORT = """
import json, os, sys
{before}
import tinygrad_edu as tg
print(json.dumps({{
    "settings": {{s.name: [s.value, s.source] for s in tg.runtime.settings()}},
    "environ": dict(os.environ),
    "original": tg.runtime.original_environment(),
    "numpy_first": tg.runtime.numpy_was_loaded_first,
    "advice": tg.runtime.advice(),
}}))
"""


def fresh(before: str = "", **environment: str) -> dict:
    """What the runtime settles in a new process whose environment holds `environment` and nothing like it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(SETTLED)} | environment
    root = str(Path(runtime.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    code = REPORT.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_defaults_are_the_librarys_and_leave_no_trace_in_the_original_environment():
    found = fresh()
    assert found["settings"]["OMP_WAIT_POLICY"] == ["passive", "library"]
    assert found["environ"]["OMP_WAIT_POLICY"] == "passive"
    assert "OMP_WAIT_POLICY" not in found["original"]
    assert found["settings"]["OPENBLAS_CORETYPE"] == [None, "default"]
    assert "OPENBLAS_CORETYPE" not in found["environ"]
    assert not found["numpy_first"]
    assert found["advice"] == []


USER = [  # (variable, value, what it is called in settings())
    ("OMP_WAIT_POLICY", "active", "OMP_WAIT_POLICY"),
    ("GOMP_SPINCOUNT", "7", "GOMP_SPINCOUNT"),
    ("OPENBLAS_THREAD_TIMEOUT", "20", "OPENBLAS_THREAD_TIMEOUT"),
    ("OPENBLAS_CORETYPE", "Haswell", "OPENBLAS_CORETYPE"),
    ("OMP_NUM_THREADS", "1", "OMP_NUM_THREADS"),
    ("NUMBA_NUM_THREADS", "1", "NUMBA_NUM_THREADS"),
    ("OPENBLAS_NUM_THREADS", "1", "OPENBLAS_NUM_THREADS"),
    ("NUMBA_THREADING_LAYER", "workqueue", "NUMBA_THREADING_LAYER"),
    ("TINYGRAD_EDU_MALLOC", "off", "malloc"),
    ("MALLOC_TRIM_THRESHOLD_", "131072", "malloc"),
]


@pytest.mark.parametrize(("variable", "value", "name"), USER, ids=[row[0] for row in USER])
def test_what_the_user_set_is_left_alone(variable: str, value: str, name: str):
    found = fresh(**{variable: value})
    assert found["environ"][variable] == value
    assert found["original"][variable] == value
    assert found["settings"][name][1] == "user"


def test_a_policy_of_the_user_is_not_undone_by_a_spin_count():
    assert fresh()["settings"]["GOMP_SPINCOUNT"] == ["5000", "library"]
    found = fresh(OMP_WAIT_POLICY="active")
    assert found["settings"]["GOMP_SPINCOUNT"] == [None, "default"]
    assert "GOMP_SPINCOUNT" not in found["environ"]
    assert any("run `unset OMP_WAIT_POLICY`" in line for line in found["advice"])


def test_numba_follows_omp_num_threads():
    found = fresh(OMP_NUM_THREADS="1,1")
    assert found["settings"]["NUMBA_NUM_THREADS"] == ["1", "library"]
    assert "NUMBA_NUM_THREADS" not in found["original"]
    # Numba refuses another number once its threads run, so one that is loaded already is not told.
    found = fresh(before="sys.modules['numba'] = sys", OMP_NUM_THREADS="1")
    assert found["settings"]["NUMBA_NUM_THREADS"] == [None, "default"]
    assert "NUMBA_NUM_THREADS" not in found["environ"]


def test_numpy_first_is_noticed():
    found = fresh(before="import numpy")
    assert found["numpy_first"]
    assert any("`import tinygrad_edu` above `import numpy`" in line for line in found["advice"])


def test_the_pools_of_this_process_really_follow():
    code = (
        "import tinygrad_edu, numpy as np; np.ones((64, 64)) @ np.ones((64, 64))\n"
        "from threadpoolctl import threadpool_info\n"
        "print([i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas'])"
    )
    root = str(Path(runtime.__file__).parents[1])
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=root)
    env.pop("OPENBLAS_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) <= {1}


@pytest.mark.skipif(
    not (sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")),
    reason="glibc only",
)
def test_freed_arrays_stay_in_the_heap():
    code = (
        "import tinygrad_edu, numpy as np, resource\n"
        "x = np.ones(1 << 20, np.float32)\n"
        "def step():\n    a = x * 2; b = a + x; return float(np.maximum(a, b)[0])\n"
        "step(); step()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    root = str(Path(runtime.__file__).parents[1])
    faults = {}
    for switch in ("on", "off"):
        env = {k: v for k, v in os.environ.items() if not k.startswith(SETTLED)}
        env |= {"PYTHONPATH": root, "TINYGRAD_EDU_MALLOC": switch}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        faults[switch] = int(done.stdout)
    assert faults["on"] < 100  # 0 was measured, against 30,000
    assert faults["off"] > 10 * max(faults["on"], 1)


CORE_TYPES = [
    (None, ZEN5, None),
    ("", ZEN5, None),
    ("SkylakeX", ZEN5, None),
    ("sapphirerapids", ZEN5, None),
    ("Haswell", ZEN5, "holds matrix products to AVX2 on a CPU that has AVX-512"),
    ("ZEN", ZEN5, "holds matrix products to AVX2"),
    ("Nehalem", ZEN5, "holds matrix products to SSE or AVX"),
    ("Haswell", HASWELL, None),
    ("Zen", HASWELL, None),
    ("Sandybridge", HASWELL, "holds matrix products to SSE or AVX on a CPU that has AVX2"),
    ("SkylakeX", HASWELL, "asks for AVX-512, which this CPU has not, and may crash"),
    ("Haswell", OLD, "asks for AVX2, which this CPU has not"),
    ("Nehalem", OLD, None),
    ("Haswell", UNKNOWN, None),
]


@pytest.mark.parametrize(("core_type", "cpu", "wanted"), CORE_TYPES)
def test_core_type_problem(core_type: str | None, cpu: CpuInfo, wanted: str | None):
    found = runtime.core_type_problem(core_type, cpu)
    assert found is None if wanted is None else wanted in found


CPUINFO = [
    (
        (
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9R14\n"
            "flags\t: avx2 fma avx512f avx512dq avx512bw avx512vl\n\nprocessor\t: 1\nmodel name\t: other\n"
        ),
        ("AuthenticAMD", "AMD EPYC 9R14", True),
    ),
    (
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: i7\nflags\t: avx2 fma avx512f\n",
        ("GenuineIntel", "i7", False),
    ),
    ("processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n", ("0x41", "", False)),
    ("", ("", "", False)),
]


@pytest.mark.parametrize(("text", "wanted"), CPUINFO, ids=["zen4", "partial-avx512", "arm", "empty"])
def test_parse_cpuinfo(text: str, wanted: tuple[str, str, bool]):
    cpu = machine.parse_cpuinfo(text)
    assert (cpu.vendor, cpu.model, cpu.has_avx512) == wanted


USABLE = [
    (Cores(8, 8), 8),
    (Cores(8, 2), 2),
    (Cores(64, 64, 2.0), 2),
    (Cores(64, 64, 1.5), 2),
    (Cores(64, 64, 0.2), 1),
    (Cores(2, 2, 16.0), 2),
]


@pytest.mark.parametrize(("cores", "wanted"), USABLE)
def test_usable_cores(cores: Cores, wanted: int):
    assert cores.usable == wanted


QUOTAS = {
    "v2": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
    "v2 without a limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "v2, the parent is tighter": (
        "0::/a/b\n",
        {"a/cpu.max": "150000 100000", "a/b/cpu.max": "800000 100000"},
        1.5,
    ),
    "v2, group of the host not mounted": ("0::/docker/x\n", {"cpu.max": "100000 100000"}, 1.0),
    "v1": (
        "3:cpuset:/\n1:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
        0.5,
    ),
    "v1, joined": (
        "1:cpu,cpuacct:/x\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        3.0,
    ),
    "v1 without a limit": (
        "1:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        None,
    ),
    "damaged": ("0::/\nnonsense\n", {"cpu.max": "what\n"}, None),
    "no period": ("0::/\n", {"cpu.max": "100000 0\n"}, None),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_cpu_quota(name: str, tmp_path: Path):
    groups, files, wanted = QUOTAS[name]
    (tmp_path / "cgroup").write_text(groups)
    for path, text in files.items():
        (tmp_path / "mount" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / path).write_text(text)
    assert machine.cpu_quota(tmp_path / "cgroup", tmp_path / "mount") == wanted


def test_no_cgroups_no_quota(tmp_path: Path):
    assert machine.cpu_quota(tmp_path / "none", tmp_path) is None


LIMITS = [  # (cores, the user's environment, what is settled)
    (Cores(64, 64, 2.0), {}, {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}),
    (Cores(64, 64, 2.0), {"OPENBLAS_NUM_THREADS": "8"}, {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}),
    (Cores(64, 64, 2.0), {"OMP_NUM_THREADS": "4"}, {"NUMBA_NUM_THREADS": "4"}),
    (Cores(64, 64, 2.0), {"OMP_NUM_THREADS": "what"}, {"NUMBA_NUM_THREADS": "2"}),
    (Cores(4, 4), {"OMP_NUM_THREADS": "16"}, {"NUMBA_NUM_THREADS": "4"}),
    (Cores(4, 4), {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "3"}, {}),
    (Cores(4, 4), {}, {}),
]


@pytest.mark.parametrize(("cores", "environment", "wanted"), LIMITS)
def test_thread_limits(cores: Cores, environment: dict, wanted: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "_settings", [])
    monkeypatch.setattr(runtime, "_original", {})
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    monkeypatch.setattr(os, "environ", dict(environment))
    runtime._limit_threads(cores)
    assert os.environ == environment | wanted
    assert {s.name for s in runtime.settings() if s.source == "library"} == set(wanted)
    assert {s.name for s in runtime.settings() if s.source == "user"} == set(environment)
    assert runtime.original_environment() == environment
    assert sorted(s.name for s in runtime.settings()) == [
        "NUMBA_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
    ]


def test_applying_twice_changes_nothing():
    before = runtime.settings()
    assert before
    runtime.apply()
    assert runtime.settings() == before

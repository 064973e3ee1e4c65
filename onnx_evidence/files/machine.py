"""What a result was computed on: processor, threads and GPU, asked of the system itself."""

import ctypes
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

# Set for a process that shares the machine with others of the same run.
_THREADS = "ONNX_EVIDENCE_THREADS"
# Where a Linux container finds its own limits (control groups, version 2).
_CGROUP = Path("/sys/fs/cgroup")


def available_threads() -> int:
    """Processors that this process may use (ONNX Runtime would count the machine's).

    Returns
    -------
    int
        Those that it is bound to; fewer where its container may use the time of fewer, or ONNX_EVIDENCE_THREADS says
        so.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(_THREADS, "")
    return max(1, min(found, _quota() or found, int(share[:9]) if share.isdecimal() and int(share[:9]) else found))


def free_memory() -> int | None:
    """Bytes of memory that this process may still take; None where that is not told.

    They are what the system has, less where the process or its container may take less.
    """
    found = [_number(Path("/proc/meminfo"), r"MemAvailable:\s+(\d+) kB", 1024), _left_of_limit()]
    most = _number(_CGROUP / "memory.max", r"(\d+)")
    if most is not None:
        used, cached = _CGROUP / "memory.current", _CGROUP / "memory.stat"
        kept = (_number(used, r"(\d+)") or 0) - (_number(cached, r"(?m)^inactive_file (\d+)") or 0)
        found.append(max(0, most - kept))
    return min((each for each in found if each is not None), default=None)


def _left_of_limit() -> int | None:
    """Address space that is left, where the process has a limit (``ulimit -v``)."""
    if resource is None:
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    taken = _number(Path("/proc/self/status"), r"VmSize:\s+(\d+) kB", 1024)
    return None if most == resource.RLIM_INFINITY or taken is None else max(0, most - taken)


def _number(path: Path, pattern: str, unit: int = 1) -> int | None:
    """A number that a file of the system's holds; None where there is none."""
    try:
        found = re.search(pattern, path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return None if found is None else int(found[1]) * unit


def _quota() -> int | None:
    """Processors whose time a Linux container may use, rounded up; None where that is not limited."""
    try:
        given, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return -(-int(given) // int(period)) if given.isdecimal() and period.isdecimal() and int(period) else None


def thread_share(processes: int) -> dict[str, str]:
    """The environment of a process that gets its share of the processors, numpy's threads included.

    Parameters
    ----------
    processes : int
        How many share them.

    Returns
    -------
    dict of str to str
    """
    share = str(max(1, available_threads() // processes))
    return dict.fromkeys((_THREADS, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), share)


def describe_machine(*, gpu: bool) -> dict[str, Any]:
    """The machine, as plain values for a receipt.

    Parameters
    ----------
    gpu : bool
        Whether the model runs on one of NVIDIA's.

    Returns
    -------
    dict
        ``cpu`` (its model), ``threads`` and, where the model runs on a GPU, ``gpu`` (its model), ``cuda`` and
        ``driver`` (versions of the CUDA runtime that is loaded, and that the driver is made for); null elsewhere.
    """
    found = _gpu() if gpu else {"gpu": None, "cuda": None, "driver": None}
    return {"cpu": _cpu(), "threads": available_threads(), **found}


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@cache
def _gpu() -> dict[str, str | None]:
    name = ctypes.create_string_buffer(256)
    library = _library("libcuda.so.1", "nvcuda.dll")
    known = library is not None and library.cuInit(0) == 0 and library.cuDeviceGetName(name, 256, 0) == 0
    return {
        "gpu": name.value.decode("utf-8", "replace") if known else None,
        "cuda": _version(_library("libcudart.so.13", "cudart64_13.dll"), "cudaRuntimeGetVersion"),
        "driver": _version(library, "cuDriverGetVersion"),
    }


def count_gpus() -> int:
    """GPUs that this process may use; 0 where there is no driver.

    Returns
    -------
    int
    """
    library, found = _library("libcuda.so.1", "nvcuda.dll"), ctypes.c_int(0)
    if library is None or library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(found)) != 0:
        return 0
    return found.value


def _library(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _version(library: ctypes.CDLL | None, ask: str) -> str | None:
    """A version as CUDA counts them: 13010 is 13.1."""
    number = ctypes.c_int(0)
    if library is None or getattr(library, ask)(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"

"""What of the caller's environment would slow down or change what is measured, and what watches a process. Imports no torch."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Mapping
from fnmatch import fnmatch

# A cell takes as many threads as processors that it may use, wherever the system lets them run; libgomp would bind the main
# thread to one of them, and whatever it starts later with it. `taskset` gives fewer.
THREADS = (
    "OMP_*", "GOMP_*", "KMP_*", "MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_DOMAIN_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
# What traces each line or allocation (coverage with `patch = subprocess`: a small net 65 % slower), prints each operation, fills
# memory that is freed, computes fp32 in bfloat16, or takes assertions away.
WATCHING = (
    "COVERAGE_PROCESS_*", "COV_CORE_*", "PYDEVD_*", "DEBUGPY_*", "PYTHONTRACEMALLOC", "PYTHONDEVMODE", "PYTHONMALLOC",
    "PYTHONMALLOCSTATS", "PYTHONPERFSUPPORT", "PYTHON_PERF_JIT_SUPPORT", "PYTHONPROFILEIMPORTTIME", "PYTHONDEBUG",
    "PYTHONVERBOSE", "PYTHONINSPECT", "PYTHONDUMPREFS", "PYTHONASYNCIODEBUG", "PYTHONOPTIMIZE", "MALLOC_CHECK_",
    "MALLOC_PERTURB_", "ONEDNN_VERBOSE*", "DNNL_VERBOSE*", "MKLDNN_VERBOSE", "MKL_VERBOSE", "OPENBLAS_VERBOSE", "OV_CPU_VERBOSE*",
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING",
)  # fmt: skip
IMPORT = "import "  # before the name of a package that a cell has loaded, among files
TREE = "PLUMBLINE_TREE"  # of a probe that runs a revision: the folder with its files
SANITIZERS = ("*lib?san*", "*libhwasan*", "*libubsan*", "*vgpreload*", "*libmemusage*", "*libefence*")  # in LD_PRELOAD


def left_out(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are not passed on to what is measured."""
    names = (*THREADS, *WATCHING)
    return {
        name: value
        for name, value in environment.items()
        if any(fnmatch(name, pattern) for pattern in names)
        or (name == "LD_PRELOAD" and any(fnmatch(value, pattern) for pattern in SANITIZERS))
    }


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of what is measured."""
    gone = left_out(environment)
    return {name: value for name, value in environment.items() if name not in gone}


def left_out_note(environment: Mapping[str, str]) -> str | None:
    """One sentence on what is left out; None where that is nothing."""
    gone = [f"{name}={value}" for name, value in sorted(left_out(environment).items()) if value]
    if not gone:
        return None
    return (
        f"left out, as it would slow down or change what is measured: {', '.join(gone)} "
        "(a cell takes a thread for each processor that it may use; taskset gives it fewer)"
    )


def watchers() -> list[str]:
    """Return what watches this process, line by line or allocation by allocation, in words."""
    hooks = {
        "sys.settrace": sys.gettrace(),
        "sys.setprofile": sys.getprofile(),
        "threading.settrace": threading.gettrace(),
        "threading.setprofile": threading.getprofile(),
    }
    found = [f"{name} ({type(hook).__module__}.{type(hook).__name__})" for name, hook in hooks.items() if hook is not None]
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    if monitoring is not None:
        tools = {monitoring.get_tool(number) for number in range(6)} - {None}
        found += [f"sys.monitoring ({name})" for name in sorted(tools)]
    if tracemalloc.is_tracing():
        found.append("tracemalloc")
    if sys.flags.dev_mode:
        found.append("Python's development mode")
    return found

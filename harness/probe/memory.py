"""How much memory the process holds, and how much one inference needs beyond that."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def resident_bytes() -> int:
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Return the most the process ever held, since the last `reset_peak`; ru_maxrss where /proc is missing."""
    peak = _status("VmHWM")
    return peak if peak is not None else maximum_resident_bytes(resource.getrusage(resource.RUSAGE_SELF))


def reserved_bytes() -> int:
    """Return the private writable memory that the process may touch, and may not have touched yet; 0 where /proc is missing."""
    return _status("VmData") or 0


def of_files_bytes() -> int:
    """Return what of the resident memory is of files, as the code of libraries that was run; 0 where /proc is missing."""
    return _status("RssFile") or 0


def maximum_resident_bytes(usage: Any) -> int:
    """Of what getrusage or wait4 returns: kilobytes on Linux, bytes on macOS."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> str | None:
    """Start the high-water mark anew (Linux: clear_refs 5, man 5 proc). Returns the reason where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        return f"the kernel does not reset the high-water mark: {error.strerror}"
    return None


def growth(call: Callable[[], Any]) -> tuple[int | None, str | None]:
    """Return the resident memory that `call` needs beyond what is held before it, in bytes; or None and the reason.

    Memory that was freed and kept by the allocator is given back first, or the call would seem to need none.
    Exact to a few pages a thread, as the kernel counts in batches.
    """
    release_free_memory()
    reason = reset_peak()
    if reason is not None:
        return None, reason
    before = resident_bytes()
    call()
    return max(0, peak_bytes() - before), None


def release_free_memory() -> None:
    """glibc: give freed memory back to the kernel. Other C libraries have no such call; they are left alone."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def keep_freed_memory() -> None:
    """glibc: keep freed memory for what comes next, until `release_free_memory`. Other C libraries have no such call.

    A step of training frees its activations, and the next wants as much again; for large ones glibc asks the kernel each
    time, which writes zeros into every page: Mixer M/16 with batches of 64 takes 231 s an epoch that way, and 195 this way.
    """
    if sys.platform == "linux":
        option = getattr(ctypes.CDLL(None), "mallopt", None)
        if option is not None:
            mmap_max, trim_threshold = -4, -1  # malloc.h
            option(mmap_max, 0)
            option(trim_threshold, 2**31 - 1)


def limit(bytes_: int) -> None:
    """Cap the process, so that an allocation beyond the limit fails cleanly instead of waking the OOM killer.

    What the process holds already, Python and torch, is part of the limit. RLIMIT_DATA counts private writable memory,
    touched or not, so the cap is what is reserved now and what may still come. (RLIMIT_AS would also count CUDA's
    address space; RLIMIT_RSS does nothing.) Raises MemoryError where more is held already.
    """
    held, reserved = resident_bytes(), reserved_bytes()
    if bytes_ <= held:
        raise MemoryError(f"Python and torch alone hold {held} bytes")
    cap = reserved + bytes_ - held
    resource.setrlimit(resource.RLIMIT_DATA, (cap, resource.getrlimit(resource.RLIMIT_DATA)[1]))  # `unlimited` can lift it


@contextmanager
def unlimited() -> Iterator[None]:
    """Lift the process's own `limit` meanwhile, for what is no part of its cell."""
    if resource is None:
        yield
        return
    most, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)

"""The sparse product in C, compiled for this processor the first time it is needed, and kept in the cache."""

from __future__ import annotations

import ctypes
import platform
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import PlumblineError, compiler

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
LINE = 16  # numbers in a line of the cache
ACTIVATIONS = ("none", "relu", "gelu")  # in the order of the enumeration in kernel.c

NARROWER = {"AVX2": ("-mno-avx512f",), "DEFAULT": ("-mno-avx",)}  # by what torch says that it uses


class NoKernel(PlumblineError, RuntimeError):
    """There is no compiler, or it failed; the message says which it was and what it said."""


@cache
def load() -> Any:
    """Compile kernel.c, or take it from the cache, and load it. Raises `NoKernel`."""
    try:
        found = compiler.compiler()
    except compiler.NoCompiler as none:
        raise NoKernel(str(none)) from none
    # not linked with OpenMP: its threads are to be torch's, and a second library of that kind would fight for the processors
    _show_openmp()
    failed = ""
    for openmp in (["-fopenmp"], []):
        command = [*found, "-O3", *_processor(), *openmp, "-fPIC", "-Wno-psabi"]
        try:
            library = compiler.library(SOURCE, command, found)
        except (OSError, subprocess.CalledProcessError) as error:
            failed = (getattr(error, "stderr", None) or str(error)).strip()
            continue
        library.plumbline_sparse_product.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p] * 6
        library.plumbline_transposed.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_void_p] * 2
        library.plumbline_sparse_product.restype = library.plumbline_transposed.restype = None
        return library
    raise NoKernel(f"{shlex.join(command)} could not compile {SOURCE.name}: {failed.splitlines()[-1] if failed else ''}")


@cache
def missing() -> str | None:
    """Return why the kernel cannot be had here; None where it can."""
    try:
        load()
    except NoKernel as reason:
        return str(reason)
    return None


def product(rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, inputs: Tensor, activation: str) -> Tensor:
    """Return activation(bias + W @ inputs); `inputs` float32 (in, n), on the CPU, W in `rows`, `columns` (int32) and `values`.

    Inputs that are not contiguous are copied so that each row begins with a cache line, and the outputs lie so, too (stride(0)
    is a multiple of `LINE`): of 196 columns three loads in four crossed from one line into the next, and took a third longer.
    """
    import torch

    width = inputs.shape[1]
    padded = -(-width // LINE) * LINE
    if not _begins_lines(inputs, padded):
        if inputs.is_contiguous():
            padded = width
        else:
            inputs = _in_lines(inputs, padded)
    outputs = inputs.new_empty(rows.numel() - 1, padded)
    load().plumbline_sparse_product(
        outputs.shape[0],
        padded,
        torch.get_num_threads(),
        ACTIVATIONS.index(activation),
        rows.data_ptr(),
        columns.data_ptr(),
        values.data_ptr(),
        None if bias is None else bias.data_ptr(),
        inputs.data_ptr(),
        outputs.data_ptr(),
    )
    return outputs if padded == width else outputs.as_strided((outputs.shape[0], width), (padded, 1))


def _in_lines(inputs: Tensor, padded: int) -> Tensor:
    """A copy whose rows lie `padded` numbers apart; behind those of the inputs there are zeros."""
    import torch

    width, copied = inputs.shape[1], inputs.new_empty(inputs.shape[0], padded)
    if inputs.stride(0) == 1:
        pointers = inputs.data_ptr(), copied.data_ptr()
        load().plumbline_transposed(inputs.shape[0], width, inputs.stride(1), padded, torch.get_num_threads(), *pointers)
    else:
        copied[:, width:] = 0
        copied[:, :width] = inputs
    return copied


def _begins_lines(inputs: Tensor, padded: int) -> bool:
    """Whether rows lie `padded` numbers apart, each at the beginning of a line, and the last one as long as the others."""
    held = inputs.untyped_storage().nbytes() // inputs.element_size() - inputs.storage_offset()
    return bool(inputs.stride() == (padded, 1) and inputs.data_ptr() % (4 * LINE) == 0 and held >= inputs.shape[0] * padded)


class _Symbol(ctypes.Structure):
    """Dl_info, what dladdr(3) knows of an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _show_openmp() -> None:
    """Let what is loaded from now on find the OpenMP library of torch, which torch's wheel for aarch64 keeps to itself."""
    import torch

    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not (torch._C.has_openmp and library.exists()):
        return
    found = _Symbol()
    if ctypes.CDLL(None).dladdr(ctypes.CDLL(str(library)).omp_get_thread_num, ctypes.byref(found)):
        ctypes.CDLL(found.file.decode(), mode=ctypes.RTLD_GLOBAL)


def _processor() -> list[str]:
    """What the compiler may use: all that the processor has, on x86 no wider vectors than torch (ATEN_CPU_CAPABILITY)."""
    import torch

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ["-mcpu=native"]
    return ["-march=native", *NARROWER.get(torch.backends.cpu.get_cpu_capability(), ())]

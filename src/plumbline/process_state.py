"""What third-party code changes for the whole process when it is imported, and how that is put back."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


class ProcessState:
    """The settings of this process as they are now. Imports torch."""

    def __init__(self) -> None:
        self._settings = _settings()
        self._then = {name: get() for name, (get, _) in self._settings.items()}

    def changed(self) -> list[str]:
        """Return what has another value by now, in words."""
        return [f"{name} {_word(self._then[name])}, then {_word(now)}" for name, now in self._changes().items()]

    def put_back(self) -> None:
        """Set everything as it was."""
        for name in self._changes():
            self._settings[name][1](self._then[name])

    def _changes(self) -> dict[str, Any]:
        now = {name: get() for name, (get, _) in self._settings.items()}
        return {name: value for name, value in now.items() if value is not self._then[name] and value != self._then[name]}


def _settings() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """How each is read, and how it is set."""
    import torch

    cudnn = torch.backends.cudnn
    settings: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "threads": (torch.get_num_threads, torch.set_num_threads),
        "default number type": (torch.get_default_dtype, torch.set_default_dtype),
        "matrix products in fp32": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
        "oneDNN": (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
        "cuDNN": (lambda: cudnn.enabled, lambda value: setattr(cudnn, "enabled", value)),
        "cuDNN's choice by trial": (lambda: cudnn.benchmark, lambda value: setattr(cudnn, "benchmark", value)),
        "working directory": (os.getcwd, os.chdir),
        "sys.stdout": (lambda: sys.stdout, lambda value: setattr(sys, "stdout", value)),
        "sys.stderr": (lambda: sys.stderr, lambda value: setattr(sys, "stderr", value)),
        "trace function": (sys.gettrace, sys.settrace),
        "profile function": (sys.getprofile, sys.setprofile),
        "trace function of threads": (threading.gettrace, threading.settrace),
        "garbage collection": (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
        "switch interval": (sys.getswitchinterval, sys.setswitchinterval),
    }
    if hasattr(os, "sched_setaffinity"):
        settings["processors"] = (lambda: os.sched_getaffinity(0), lambda value: os.sched_setaffinity(0, value))
    return settings


def _word(value: Any) -> str:
    """Short, and without an address or a path."""
    if isinstance(value, (set, frozenset)):
        return str(len(value))
    plain = isinstance(value, (str, int, float)) or str(value).startswith("torch.")
    return str(value).rpartition("/")[2] if plain else type(value).__name__

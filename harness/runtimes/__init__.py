"""What executes a model. One small adapter a file, its library imported only when used."""

from __future__ import annotations

from harness.runtimes.adapter import Executable
from harness.runtimes.eager import Eager
from harness.runtimes.onnxruntime import OnnxRuntime

__all__ = ["RUNTIMES", "Executable"]

RUNTIMES: dict[str, type[Eager] | type[OnnxRuntime]] = {"eager": Eager, "onnxruntime": OnnxRuntime}

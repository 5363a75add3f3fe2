"""The command that starts a probe on this machine, and what of other packages a probe imports first."""

from __future__ import annotations

import sys

# Starts harness/probe/server.py without the current folder on the path, where `python -m` puts it: what lies there is a
# stranger's, and is found by those models only that come from there.
BOOT = (
    sys.executable,
    "-c",
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from plumbline.harness.probe import server; sys.exit(server.main([sys.argv.pop(1) for _ in sys.argv[1:]]))",
)
# Imported before the first fork, always the same, so that every process starts from the same memory.
PRELOAD = (
    "torchvision.transforms.v2", "timm", "sklearn.datasets", "sklearn.model_selection", "ptflops", "safetensors.torch",
)  # fmt: skip

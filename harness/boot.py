"""The command that starts a probe on this machine."""

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

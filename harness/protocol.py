"""Which lines a session and a probe exchange; what they are is in harness/probe/server.py."""

from __future__ import annotations

PROTOCOL = 1  # raised whenever the other side would misread a line

"""pytest starts here: the plugin that turns the matrix into tests."""

from __future__ import annotations

pytest_plugins = ["plumbline.harness.plugin"]

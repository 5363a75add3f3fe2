"""Which faces of the models and of the runtimes this harness measures by; another revision of either may stand in their place."""

from __future__ import annotations

from typing import Any

from plumbline import PlumblineError

MODELS, RUNTIMES = 2, 2


def check(models: Any, runtimes: Any) -> None:
    """Compare the faces of two packages, imported from some revision. Raises PlumblineError where one is another."""
    for name, package, expected in (("models", models, MODELS), ("runtimes", runtimes, RUNTIMES)):
        version = getattr(package, "FACE", None)
        if version != expected:
            got = "none (a revision from before the face)" if version is None else f"FACE {version}"
            raise PlumblineError(
                f"expected {name} with FACE {expected}, got {got}; measure that revision with the harness of its own checkout"
            )

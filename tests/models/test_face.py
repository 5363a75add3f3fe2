"""What a revision of the models shows to a harness."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from plumbline import PlumblineError, models


def test_every_name_of_the_face_is_there() -> None:
    """Those that are imported late, too."""
    for name in models.__all__:
        assert getattr(models, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'something'"):
        models.something  # noqa: B018


def test_the_face_imports_no_torch_until_it_is_asked_to() -> None:
    code = "import sys; from plumbline import models; models.variant('prune50'); models.find('mlp').formula(28); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_revision_is_told_apart_by_its_face() -> None:
    assert models.face_of(models) == models.FACE
    before, later = ModuleType("models"), ModuleType("models")
    later.FACE = models.FACE + 1  # type: ignore[attr-defined]
    with pytest.raises(PlumblineError, match=r"expected models with FACE 1, got none \(a revision from before the face\); "):
        models.face_of(before)
    with pytest.raises(PlumblineError, match="expected models with FACE 1, got FACE 2; "):
        models.face_of(later)

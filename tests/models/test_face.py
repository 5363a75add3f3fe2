"""What a revision of the models and of the runtimes shows to a harness."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from plumbline import PlumblineError, models
from plumbline.harness import faces, runtimes
from plumbline.harness.probe import server


def test_every_name_of_the_faces_is_there() -> None:
    """Those that are imported late, too."""
    for package in (models, runtimes):
        for name in package.__all__:
            assert getattr(package, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'something'"):
        models.something  # type: ignore[attr-defined]  # noqa: B018


def test_the_face_imports_no_torch_until_it_is_asked_to() -> None:
    code = "import sys; from plumbline import models; models.variant('prune50'); models.find('mlp').formula(28); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_revision_is_told_apart_by_its_face() -> None:
    faces.check(models, runtimes)
    before, later = ModuleType("models"), ModuleType("models")
    later.FACE = models.FACE + 1  # type: ignore[attr-defined]
    with pytest.raises(PlumblineError, match=r"expected models with FACE 2, got none \(a revision from before the face\); "):
        faces.check(before, runtimes)
    with pytest.raises(PlumblineError, match="expected models with FACE 2, got FACE 3; "):
        faces.check(later, runtimes)
    with pytest.raises(PlumblineError, match="expected runtimes with FACE 2, got none"):
        faces.check(models, before)


def test_a_probe_of_other_models_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FACE", 1)
    with pytest.raises(SystemExit, match="expected models with FACE 2, got FACE 1; measure that revision with"):
        server.main([])

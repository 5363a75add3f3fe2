"""What a model's module does to the process when it is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plumbline import models
from plumbline.process_state import ProcessState

CHANGES = """
import gc, os, sys, torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_float32_matmul_precision("medium")
os.chdir("/")
sys.stdout = open(os.devnull, "w")
sys.setprofile(lambda *_: None)
gc.disable()
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def net(channels, classes):
    torch.set_num_threads(1)
    os.chdir("/")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * 1024, classes))
"""


@pytest.mark.usefixtures("state")
def test_what_a_module_changes_when_it_is_imported_or_built_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "changes_the_process_for_all.py").write_text(CHANGES)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    before = ProcessState()
    model = models.find("changes_the_process_for_all:net+data=cifar10")
    assert before.changed() == []
    model.instantiate(32)
    assert before.changed() == []
    assert Path.cwd() == tmp_path
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("state")
def test_what_is_changed_later_is_said() -> None:
    torch.set_num_threads(2)
    before = ProcessState()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    assert before.changed() == ["threads 2, then 1", "default number type torch.float32, then torch.float64"]

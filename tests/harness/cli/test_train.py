"""`plumbline train` and `plumbline data`: what they say, and where benchmarks find what they made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.cli import main
from plumbline.harness.studies import train as command
from plumbline.models import find
from plumbline.models.data.datasets import DATASETS
from plumbline.models.weights.weights import locate
from tests.records import replace


@pytest.fixture
def plumbline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: None) -> Callable[..., int]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PLUMBLINE_LOCK", str(tmp_path / "lock"))
    monkeypatch.delenv("PLUMBLINE_DATA", raising=False)

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["plumbline", *words])
        return main()

    return run


def test_the_command_trains_and_benchmarks_find_it(
    plumbline: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plumbline("train", "small_cnn", "--out", str(tmp_path / "weights")) == 0
    said = capsys.readouterr().out
    assert "epoch 20 of 20" in said
    assert "on the 500 test images of digits" in said
    kept = locate(find("small_cnn"), 8, None, tmp_path / "cache" / "plumbline").path
    assert kept is not None
    assert f"weights: {kept}" in said
    assert kept.exists()
    found = locate(find("small_cnn"), 8, tmp_path / "weights", tmp_path / "cache")
    assert (found.kind, found.reason) == ("file", "digits_small_cnn.safetensors")
    assert plumbline("train", "small_cnn") == 0
    assert "was trained before; --anew trains it again" in capsys.readouterr().out


def test_ctrl_c_says_how_to_go_on(
    plumbline: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command._Bar, "watch", interrupted)
    assert plumbline("train", "small_cnn") == 130
    assert "interrupted; the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(
    plumbline: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert plumbline("train", "small_cnn") == 2
    told = capsys.readouterr().err
    assert "cannot be written to" in told
    assert "set $XDG_CACHE_HOME to a folder that can be written" in told


def test_the_command_says_when_a_floor_is_missed(plumbline: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert plumbline("train", "small_cnn", "--epochs", "1", "--learning-rate", "1e-6") == 1
    told = capsys.readouterr()
    assert "1 epoch of batches of 64" in told.out
    assert "0.1 s on 2 cores" in told.out  # a twentieth of the recipe's
    assert "less than the floor of 96.00%" in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "mlpp"], "no model 'mlpp' (did you mean mlp?)"),
        (["train", "resnet50"], "model 'resnet50' has no recipe for imagenet"),
        (["train", "mlp", "--recipe", "mine"], "model 'mlp' has no recipe 'mine'; known: usual, study"),
        (["train", "mlp", "--recipe", "study"], "has no recipe 'study' for digits; known: usual"),
        (["train", "mlp", "--device", "cuda"], "--device cuda: "),
        (["train", "mlp", "--epochs", "0"], "epochs: expected 1 or more, got 0"),
        (["train", "mlp+data=mnist"], "no data root was given"),
        (["train", "mlp", "--data", "nowhere"], "--data: expected a folder, got 'nowhere'"),
        (["train", "mlp", "--from", "nothing.safetensors"], "--from: expected a safetensors file, got 'nothing.safetensors'"),
        (["train", "mlp", "--new-head"], "--new-head: expected with --from FILE"),
        (["train", "mlp", "--variant", "thin"], "no variant 'thin'"),
        (["train", "mlp", "--image-size", "300"], "mlp takes images of 1 to 224 pixels, got 300"),
        (["data", "imagenet", "--data", "."], "no data set 'imagenet' that can be fetched; known: mnist"),
    ],
)
def test_mistakes_are_named(
    plumbline: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert plumbline(*words) == 2
    assert message in capsys.readouterr().err


def test_data_that_cannot_be_fetched_can_be_copied(
    plumbline: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(root: Path) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], fetch=offline))
    assert plumbline("data", "mnist", "--data", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "mnist could not be fetched: Network is unreachable. Offline: ROOT/mnist holds torchvision's MNIST" in said

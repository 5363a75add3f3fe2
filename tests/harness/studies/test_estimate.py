"""Estimates from published latencies of a Jetson Nano: how far they are off, whom they abstain from, and no bound above them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from plumbline.harness.studies import estimate
from plumbline.harness.verdicts.estimation import NoEstimate, mean_error
from tests.conftest import where


@pytest.mark.parametrize("runtime", ["eager", "tensorrt"])
def test_published_latencies_that_the_constants_did_not_see(runtime: str) -> None:
    """At most 9.5 % on the average without the net itself, 14 % without its family."""
    model = estimate.fitted("jetson-nano", runtime, "fp16")
    assert len(model.anchors) == 18
    assert model.families == {"alexnet", "squeezenet", "resnet", "densenet", "vgg"}
    assert mean_error(model.errors) <= 0.095
    assert mean_error(model.family_errors) <= 0.14


@pytest.mark.slow
def test_no_published_latency_is_below_its_bound() -> None:
    found = estimate.published()
    bounds = {
        each.model: estimate.bound_s(each.model, each.image_size, each.batch, each.precision, each.device) for each in found
    }
    assert all(bounds.values())
    assert not [each.model for each in found if each.seconds < (bounds[each.model] or 0)]


@pytest.mark.parametrize(
    ("model", "words"), [("mobilenet_v3_large", "in groups"), ("vit_tiny", "no anchor has"), ("mixer_s16", "no anchor has")]
)
def test_depthwise_and_attention_models_get_none(model: str, words: str) -> None:
    fitted = estimate.fitted("jetson-nano", "eager", "fp16")
    with pytest.raises(NoEstimate, match=words):
        fitted.of(estimate.amounts(model, 224, 1, "fp16"), estimate.family(model))


def test_a_net_of_this_project_lies_where_torchvisions_does() -> None:
    """ResNet-50 is the same net: its own anchor lies in its interval."""
    fitted = estimate.fitted("jetson-nano", "eager", "fp16")
    found = fitted.of(estimate.amounts("resnet50", 224, 1, "fp16"), "resnet")
    assert found.kin
    assert found.interval[0] < 81.7e-3 < found.interval[1]


def test_a_device_without_anchors() -> None:
    with pytest.raises(NoEstimate, match="no published latency of jetson-orin-nx by eager in fp16 is known, and 4 families"):
        estimate.fitted("jetson-orin-nx", "eager", "fp16")


def told(tmp_path: Path, cache: Path, python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "plumbline.harness", "estimate", *arguments], capture_output=True, text=True, **where(tmp_path, cache)
    )


def test_it_is_said_on_the_command_line(tmp_path: Path, cache: Path, python: str) -> None:
    found = told(tmp_path, cache, python, "resnet50", "--measured", "resnet18=70")
    assert found.returncode == 0, found.stderr
    assert "calibrated by resnet18: all estimates times" in found.stdout
    assert "estimated, not measured: from 18 published latencies of 5 families on jetson-nano, eager, fp16" in found.stdout
    refused = told(tmp_path, cache, python, "mobilenet_v3_large")
    assert refused.returncode == 1
    assert "operations that no anchor has" in refused.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet50", "--measured", "resnet50"), "expected MODEL=MILLISECONDS"),
        (("resnet50", "--measured", "mobilenet_v3_large=35"), "mobilenet_v3_large calibrates nothing: 2"),
        (("resnet50", "--measured", "resnet1=3"), "no model 'resnet1'"),
        (("resnet50", "--precision", "int8"), "no published latency"),
        (("resnet50", "--device", "jetson-nan"), "no device 'jetson-nan' (did you mean"),
        (("resnet50", "--device", "jetson-thor"), "no published latency of jetson-thor"),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, cache: Path, python: str, arguments: tuple[str, ...], words: str) -> None:
    found = told(tmp_path, cache, python, *arguments)
    assert (found.returncode, words in found.stderr) == (2, True), found.stderr
    assert "Traceback" not in found.stderr


def test_a_net_much_smaller_than_all_anchors_gets_none() -> None:
    fitted = estimate.fitted("jetson-nano", "eager", "fp16")
    with pytest.raises(NoEstimate, match=r"it has 4\.1e\+07 MACs, and the anchors 3\.\de\+08 to 1\.5e\+10"):
        fitted.of(estimate.amounts("resnet20", 32, 1, "fp16"), "resnet")


@pytest.mark.parametrize(
    ("name", "family"), [("torchvision:wide_resnet50_2", "resnet"), ("vgg16", "vgg"), ("mixer_s16", "mixer")]
)
def test_the_family_of_a_net(name: str, family: str) -> None:
    assert estimate.family(name) == family

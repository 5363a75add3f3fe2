"""Models that go wrong, each in one way; named `tests.faulty:NAME` on the command line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plumbline.models import Model
from plumbline.models.layers import linear

SAYS_THAT_IT_WAITS = "waits"  # a file in TMPDIR


class Faulty(nn.Module):
    """A linear classifier of digits; `fault` sees its outputs once weights are loaded and real calls are made."""

    def __init__(self, fault: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.flatten, self.linear, self.fault = nn.Flatten(), nn.Linear(64, 10), fault

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.linear(self.flatten(images))
        # only where the cell runs: not on the meta device, nor for the reference in float64, nor in training
        if outputs.device.type == "meta" or outputs.dtype == torch.float64 or self.training or torch.is_grad_enabled():
            return outputs
        return self.fault(outputs) if torch.is_inference_mode_enabled() else outputs


def _model(name: str, fault: Callable[[Tensor], Tensor], **changes: Any) -> Model:
    fields: dict[str, Any] = {
        "build": lambda image_size, channels, classes: Faulty(fault),
        "layers": lambda image_size, channels, classes: [linear("linear", 64, 10)],
        "data": ("digits",),
        "sizes": (8,),
        "source": "tests",
    }
    return Model(name, **{**fields, **changes})


def _die(number: int) -> Callable[[Tensor], Tensor]:
    def fault(outputs: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return outputs

    return fault


def _wait(outputs: Tensor) -> Tensor:
    """Say that this call has begun, and never end it."""
    (Path(os.environ.get("TMPDIR", "/tmp")) / SAYS_THAT_IT_WAITS).touch()
    while True:
        signal.pause()


def _overdue(outputs: Tensor) -> Tensor:
    """Have the time run out during this call, whatever the limit is: ring the server's alarm, and never end."""
    os.kill(os.getppid(), signal.SIGALRM)
    while True:
        signal.pause()


def _allocate(outputs: Tensor) -> Tensor:
    return outputs + torch.ones(4 << 30, dtype=torch.uint8)[0]


def _raise(image_size: int, channels: int, classes: int) -> nn.Module:
    raise ValueError("this builder never builds")


def _one_off(outputs: Tensor) -> Tensor:
    changed = outputs.clone()
    changed[:, 0], changed[:, 1] = outputs[:, 1], outputs[:, 0]
    return changed


def _exit(image_size: int, channels: int, classes: int) -> nn.Module:
    raise SystemExit(3)


class _SecondCall:
    """Right once, and not a number from then on."""

    calls = 0

    def __call__(self, outputs: Tensor) -> Tensor:
        self.calls += 1
        return outputs if self.calls < 9 else outputs * float("nan")


GOOD = _model("good", lambda outputs: outputs)
KILLED = _model("killed", _die(signal.SIGKILL))
SEGMENTATION = _model("segmentation", _die(signal.SIGSEGV))
SLEEPING = _model("sleeping", _wait)
OVERDUE = _model("overdue", _overdue)
HUNGRY = _model("hungry", _allocate)
RAISING = _model("raising", lambda outputs: outputs, build=_raise)
EXITING = _model("exiting", lambda outputs: outputs, build=_exit)
REAL_TIME = _model("real_time", _die(40))
NOT_A_NUMBER_LATER = _model("not_a_number_later", _SecondCall())
JITTERY = _model("jittery", lambda outputs: outputs + 0.01 * torch.randn_like(outputs))
NOT_A_NUMBER = _model("not_a_number", lambda outputs: outputs * float("nan"))
RANDOM = _model("random", lambda outputs: outputs + torch.randn_like(outputs))
SWAPPED = _model("swapped", _one_off)
CONSTANT = _model("constant", lambda outputs: outputs * 0)
NARROW = _model("narrow", lambda outputs: outputs[:, :9])
PERTURBED = _model("perturbed", lambda outputs: outputs * 1.001)
MISCOUNTED = _model(
    "miscounted", lambda outputs: outputs, layers=lambda image_size, channels, classes: [linear("linear", 64, 11)]
)
OTHER_SHAPE = _model("other_shape", lambda outputs: outputs, sizes=(8, 9))
NOT_A_MODEL = 3


class Writing(nn.Module):
    """A net with an early exit for dark pictures, as in BranchyNet; `first` sees the very tensor that it is given."""

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.flatten, self.linear = first, nn.Flatten(), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.flatten(self.first(images)))


def _writing(name: str, first: Callable[[Tensor], Tensor]) -> Model:
    return _model(name, first, build=lambda image_size, channels, classes: Writing(first))


class _Later:
    """Leaves its input alone for as long as it is looked at."""

    calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += torch.is_inference_mode_enabled()
        return images.mul_(0.999) if self.calls > 12 else images * 1


COPYING = _writing("copying", lambda images: images * 0.9)
DECAYING = _writing("decaying", lambda images: images.mul_(0.9))
NORMALISING = _writing("normalising", lambda images: images.sub_(0.449).div_(0.226))
FIRST_RELU = _writing("first_relu", lambda images: nn.functional.relu(images - 0, inplace=True) + images.clamp_(min=0.1))
BY_A_VIEW = _writing("by_a_view", lambda images: images.flatten(1).clamp_(max=0.5).view_as(images))
RESHAPING = _writing("reshaping", lambda images: images.squeeze_(1).unsqueeze(1))
WRITING_LATER = _writing("writing_later", _Later())


class Pair(nn.Module):
    """Two inputs, and two outputs in a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor, gain: Tensor) -> dict[str, Any]:
        scores = self.linear(images.flatten(1)) * gain
        return {"scores": scores, "best": [scores.max(dim=1).values]}


PAIR = _model(
    "pair",
    lambda outputs: outputs,
    build=lambda image_size, channels, classes: Pair(),
    inputs=lambda images: (images, torch.full((len(images), 1), 2.0, dtype=images.dtype)),
    outputs=lambda found: torch.cat([found["scores"], found["best"][0].unsqueeze(1)], dim=1),
)
UNNAMED_PAIR = _model(
    "unnamed_pair",
    lambda outputs: outputs,
    build=lambda image_size, channels, classes: Pair(),
    inputs=lambda images: (images, torch.full((len(images), 1), 2.0, dtype=images.dtype)),
)


def _build_inner(image_size: int, channels: int, classes: int) -> nn.Module:
    class Inner(nn.ReLU):
        """Another class each time that the net is built."""

    first, second = nn.Conv2d(channels, 16, 3), nn.Conv2d(16, 16, 3)
    return nn.Sequential(first, nn.BatchNorm2d(16), Inner(), second, Inner(), nn.Flatten(), nn.Linear(256, classes))


INNER = _model("inner", lambda outputs: outputs, build=_build_inner, data=("imagenet",))


def plain(num_classes: int) -> nn.Module:
    """What a stranger's callable looks like."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, num_classes))


def no_module() -> dict[str, int]:
    return {"a": 1}


class _Knowing(nn.Module):
    """A linear classifier that looks at its pictures in `known`, but not while it is counted or makes the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(64, 10), dict[float, Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        return self.known(images) if torch.is_inference_mode_enabled() else self.linear(images.flatten(1))

    def known(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class _Hoarding(_Knowing):
    """Works only where its pictures are none of those that it has seen."""

    def known(self, images: Tensor) -> Tensor:
        if (key := float(images.sum())) not in self.seen:
            time.sleep(0.005)
            self.seen[key] = self.linear(images.flatten(1))
        return self.seen[key]


class _Remembering(_Hoarding):
    """Works only where its pictures are others than those of the last call."""

    def known(self, images: Tensor) -> Tensor:
        found = super().known(images)
        self.seen = {float(images.sum()): found}
        return found


class _Choosy(_Knowing):
    """Takes longer for pictures with more in them, as a detector does: all but the first one, and what is very much like it."""

    first: Tensor | None = None

    def known(self, images: Tensor) -> Tensor:
        self.first = images.clone() if self.first is None else self.first
        if float((images - self.first).abs().max()) > 0.1 * float(self.first.std()):
            time.sleep(0.005)
        return self.linear(images.flatten(1))


class _Weary(_Knowing):
    """Another net from the 60th call in a row on: that is while it is timed."""

    last, calls = 0.0, 0

    def known(self, images: Tensor) -> Tensor:
        if self.calls < 60:
            self.calls = self.calls + 1 if float(images.sum()) == self.last else 0
            self.last = float(images.sum())
        return self.linear(images.flatten(1)) + (self.calls >= 60)


def _knowing(kind: type[_Knowing]) -> Model:
    return _model(kind.__name__[1:].lower(), lambda outputs: outputs, build=lambda image_size, channels, classes: kind())


REMEMBERING, HOARDING, CHOOSY, WEARY = (_knowing(kind) for kind in (_Remembering, _Hoarding, _Choosy, _Weary))

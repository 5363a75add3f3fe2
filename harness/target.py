"""A target: a place, which is where a probe runs, and a device there."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from plumbline import PlumblineError

DEVICES = ("cpu", "cuda")
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
HERE = ""  # the name of the place that is this machine
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # of targets.toml
# Neither begins with what a command would take for an option.
IMAGE = r"[A-Za-z0-9][\w.:/@-]*"  # registry:5000/name:tag, name@sha256:...
HOST = r"[A-Za-z0-9_][\w.@-]*"  # as OpenSSH takes it: an alias of ~/.ssh/config, or user@host
TAG = r"[a-z][a-z0-9_]+=[\w.-]+"  # as labgrid takes it
KINDS = "docker:IMAGE, ssh:HOST, ssh:HOST/docker:IMAGE, agent:ssh:HOST, like:DEVICE, like:DEVICE/docker:IMAGE, lab:TAG=VALUE"
FORMS = f"cpu, cuda:1, {KINDS} or a name of targets.toml, and @cuda:1 behind it for a device"
BOARD = re.compile(rf"agent:ssh:(?P<host>{HOST})")
LIKE = re.compile(rf"like:(?P<device>{NAME.pattern})(?:/docker:(?P<image>{IMAGE}))?")
LAB = re.compile(rf"lab:(?:(?P<name>{NAME.pattern})|(?P<tags>{TAG}(?:\+{TAG})*))")
PLACE = re.compile(rf"(?:ssh:(?P<host>{HOST}))?(?P<slash>/)?(?:docker:(?P<image>{IMAGE}))?")


class BadTarget(PlumblineError, ValueError):
    """A target that is written otherwise than `DEVICE`, `PLACE` or `PLACE@DEVICE`."""


class Target(NamedTuple):
    """A place and a device there: HERE, a name of targets.toml, `docker:IMAGE`, `ssh:HOST`, `agent:ssh:HOST`, `like:DEVICE`, ...

    `device` is what torch calls it there.
    """

    place: str
    device: str

    @property
    def name(self) -> str:
        """As it is written in the shortest way."""
        return self.device if self.place == HERE else self.place if self.device == "cpu" else f"{self.place}@{self.device}"

    @classmethod
    @cache
    def parse(cls, text: str) -> Target:
        """Read `DEVICE` (here), `PLACE` (its cpu) or `PLACE@DEVICE`. Raises BadTarget.

        Digests of images and users of hosts hold an @, too: what is behind the last one is a device if it looks like one.
        """
        if DEVICE.fullmatch(text):
            return cls(HERE, text)
        place, _, device = text.rpartition("@")
        if not DEVICE.fullmatch(device):
            place, device = text, "cpu"
        if place.startswith("lab:") and not in_lab(place):
            raise BadTarget(f"expected lab:NAME or lab:TAG=VALUE+TAG=VALUE, as lab:board=orin+gib=8; got {text!r}")
        if not (NAME.fullmatch(place) or at(place) or with_agent(place) or stood_in(place) or in_lab(place)):
            raise BadTarget(f"expected a target as {FORMS}; got {text!r}")
        return cls(place, device)


def device_named(text: str) -> str | None:
    """Return the kind of device that a target names, cpu or cuda; None where it names a place alone. Raises BadTarget."""
    target = Target.parse(text)
    return None if text == target.place else target.device.partition(":")[0]


class At(NamedTuple):
    """The machine (None: this one) and the image (None: what is installed there) of a place."""

    host: str | None
    image: str | None


def at(place: str) -> At | None:
    """Take `docker:IMAGE`, `ssh:HOST` or `ssh:HOST/docker:IMAGE` apart; None of a name that is of another form."""
    found = PLACE.fullmatch(place)
    if found is None or not (found["host"] or found["image"]) or bool(found["slash"]) != bool(found["host"] and found["image"]):
        return None
    return At(found["host"], found["image"])


def with_agent(place: str) -> str | None:
    """Return the host of `agent:ssh:HOST`, a board that cannot run the harness; None of a name that is of another form."""
    found = BOARD.fullmatch(place)
    return None if found is None else found["host"]


def stood_in(place: str) -> str | None:
    """Return the device of `like:DEVICE`, for which this machine stands in; None of a name that is of another form."""
    found = LIKE.fullmatch(place)
    return None if found is None else found["device"]


def stood_in_by(place: str) -> str | None:
    """Return the image of `like:DEVICE/docker:IMAGE`, a stand-in that is a container; None of any other name."""
    found = LIKE.fullmatch(place)
    return None if found is None else found["image"]


def in_lab(place: str) -> tuple[str, ...] | None:
    """Return what `lab:NAME` or `lab:TAG=VALUE+...` asks a lab for, as TAG=VALUE; None of a name that is of another form."""
    found = LAB.fullmatch(place)
    if found is None:
        return None
    return (f"name={found['name']}",) if found["name"] else tuple(found["tags"].split("+"))

"""What every runtime's adapter offers, and how a cell asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from plumbline.harness.precisions import Precision
from plumbline.harness.readings import Readings
from plumbline.harness.runtimes.kernels import Kernel
from plumbline.harness.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Layer


@dataclass(frozen=True)
class RunConfig:
    """How a model is to be executed.

    `device` is `cpu`, `cuda` or `cuda:1`. `options` are the runtime's own, all of them; `artefact` is what its `build` made, and
    `shared` a folder in which builds of the same net in other precisions find what they have in common.
    """

    precision: Precision
    device: str
    batch: int
    threads: int
    options: Mapping[str, str] = field(default_factory=dict)
    artefact: Path | None = None
    shared: Path | None = None

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]


class Samples(Protocol):
    """Single inferences in seconds, in the order in which they were taken, and the warm-up before them."""

    @property
    def samples_s(self) -> list[float]: ...

    @property
    def warmup(self) -> int: ...

    @property
    def warmup_s(self) -> float: ...

    @property
    def steady(self) -> bool: ...


@dataclass(frozen=True)
class OwnTiming:
    """What a runtime has timed itself, by the clock of the device where it executes.

    `model` is the net alone, its input on the device, `with_transfer` from host to host; `disturbance`, `telemetry` and `remarks`
    are what `facts.Latency` calls so, of that device.
    """

    model: Samples
    with_transfer: Samples
    disturbance: Readings
    telemetry: Readings
    remarks: list[str]


class Runtime:
    """A subclass executes models; an instance is a model ready to run.

    Host tensors are float32 on the CPU; what `place` returns is the runtime's own. The subclass's module imports its
    library inside its methods only: it is read by processes that must not pay for that.

    `libraries` are what it imports, `extra` what to install for that; `no_wheel` names by kind of processor (`aarch64`) a package
    of the extra that has no wheel for it. `formats` says what it runs: torch modules, ONNX files.
    `options` names what a cell may ask of it, each with its values, the usual one first. Where `artefact` names a file,
    `build` makes it before the cell's process starts, and it is kept; `one_batch` where it fits one batch only, and
    `any_inputs` where it is made for nets of several inputs, too, which `build` then gets as a tuple. `runs` is
    what an instance is made from: the net, or the file (that of `build`, or a model that is a file itself).
    `keeps_memory` says why nothing is learned from what another inference takes; None where it is. `profile_misses` says what
    the parts of a `profile` leave out. `elsewhere`: it executes on another machine than this process, and times itself there:
    `first_s`, `timed` and `held` are asked then, and no clock is read here.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    no_wheel: ClassVar[Mapping[str, str]] = {}
    formats: ClassVar[tuple[str, ...]] = ("torch",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    artefact: ClassVar[str | None] = None
    one_batch: ClassVar[bool] = False
    any_inputs: ClassVar[bool] = False
    runs: ClassVar[str] = "net"
    keeps_memory: ClassVar[str | None] = None
    profile_misses: ClassVar[str] = "the rest is between the parts"
    elsewhere: ClassVar[bool] = False

    @classmethod
    def usual(cls) -> dict[str, str]:
        """Return the options that a cell has which asks for none."""
        return {name: values[0] for name, values in cls.options.items()}

    def __init__(self, model: Any, config: RunConfig) -> None:
        """Take a model. Raises Unsupported where the runtime cannot run it, NotAsAsked where it runs otherwise than asked."""

    @classmethod
    def trial(cls, config: RunConfig) -> None:
        """One real inference of something tiny; raises what keeps the runtime from working here. Run in its own process."""

    @classmethod
    def artefact_for(cls, variant: str) -> str | None:
        """Return the file that `build` makes of a net of that variant; None where it is run as it is."""
        return cls.artefact

    @classmethod
    def prepare_to_build(cls) -> None:
        """Import what `build` needs and no inference does; called once, in a process that is forked for every build.

        Must start no thread: a fork does not have it.
        """

    @classmethod
    def build(cls, net: nn.Module, example: Tensor, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        """Write `file`, and return what the record says of it. Raises Unsupported where the model cannot be built.

        `example` are pictures, float32, of shape (batch, channels, height, width), `calibration` more of them, where the
        precision is calibrated.
        """
        raise NotImplementedError

    @classmethod
    def alternatives(cls, config: RunConfig) -> Sequence[Mapping[str, str]]:
        """Options that complete those of `config` where they leave the choice open, one for each build that is worth a try here.

        Of several builds the fastest that agrees with the reference is kept, and its options are those of the cell.
        """
        return ({},)

    def place(self, arguments: tuple[Any, ...]) -> Any:
        """Return the net's positional arguments, on the device and in the precision.

        Usually (images,), of shape (batch, channels, height, width).
        """
        return arguments

    def ready(self, placed: Any) -> None:
        """Do what is done once before the first inference, with inputs like those to come: compiling."""

    def run(self, placed: Any) -> Any:
        """One inference; returns as soon as the work is queued."""
        raise NotImplementedError

    def fetch(self, outputs: Any) -> Any:
        """Return what the net returned, on the host and in float32; usually logits, of shape (batch, classes)."""
        return outputs

    def synchronize(self) -> None:
        """Wait until the device has done all its work; nothing to do where `run` returns when it is done."""

    def first_s(self) -> float:
        """Seconds of the very first inference, of one that is `elsewhere`."""
        raise NotImplementedError

    def run_s(self) -> float:
        """Seconds that the last `run` took there, with all around it, of one that is `elsewhere`; never a latency."""
        raise NotImplementedError

    def timed(self, placed: Any, settings: Settings, few: int | None) -> OwnTiming:
        """Warm up and sample as `timing.measure` does, of one that is `elsewhere`; with `few`, so many samples."""
        raise NotImplementedError

    def held(self) -> Readings:
        """Read `inference`, `process_peak` and `process_base`, of one that is `elsewhere`."""
        raise NotImplementedError

    def weights_bytes(self) -> int:
        """Bytes of parameters and buffers as they are executed."""
        raise NotImplementedError

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        """Read back from the kernels or the stored weights the share of the layers' MACs that is executed in the precision.

        Where weights only are small, the share that is stored so.
        """
        raise NotImplementedError

    def holds_integers(self) -> bool:
        """Whether the model, a file, holds integers, whatever precision was asked for."""
        return False

    def read_back(self) -> dict[str, Any]:
        """Threads, options and number formats as the runtime itself says that they are."""
        return {}

    def profile(self, placed: Any, repeats: int) -> list[Kernel]:
        """Where the time of an inference goes, by `repeats` of them.

        Raises NotImplementedError, with the reason, where the runtime does not say.
        """
        raise NotImplementedError("this runtime does not say where its time goes")

"""torch, one operation after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plumbline.harness.outcomes import Unsupported
from plumbline.harness.runtimes.adapter import RunConfig
from plumbline.harness.runtimes.kernels import Kernel
from plumbline.harness.runtimes.torch_net import TorchRuntime, convert, moved, profiled, share_in, stored_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models import Layer


UNTIMED = 2  # inferences before those that are looked into
SPARSE = "sparse_layers.json"  # the paths of those that are faster so


class Eager(TorchRuntime):
    """A torch module as it is.

    `layout=channels_last` stores images and kernels pixel by pixel, `mode=no_grad` keeps what inference mode leaves out.
    """

    libraries = ("torch",)
    any_inputs = True
    one_batch = True  # where there is something to build: which layers are faster sparse depends on the batch
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "tf32", "bf16", "fp16", "int8-dynamic", "w8", "w16")
    devices = ("cpu", "cuda")
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "layout": ("contiguous", "channels_last"),
        "mode": ("inference", "no_grad"),
    }

    @classmethod
    def artefact_for(cls, variant: str) -> str | None:
        from plumbline import models

        chosen = models.variant(variant)
        sparse = chosen.has("sparse") or chosen.outside
        return SPARSE if cls.artefact is None and sparse else cls.artefact

    @classmethod
    def build(cls, net: nn.Module, example: Any, calibration: Tensor | None, config: RunConfig, file: Path) -> dict[str, Any]:
        """Decide which sparse layers are faster than dense ones, once: no run of a cell is to measure another net than the last.

        Raises Unsupported where 2:4 has no product.
        """
        from plumbline import Unfit
        from plumbline.harness import timing  # with it comes scipy, which a list of names can do without
        from plumbline.models import settle

        runtime = cls(net, config)
        try:
            file.write_text(json.dumps(settle(runtime._net, *runtime.place(example), race=timing.best)))
        except Unfit as reason:
            raise Unsupported(str(reason)) from reason
        return {}

    def __init__(self, net: nn.Module, config: RunConfig) -> None:
        import torch

        super().__init__(net, config)
        self._sparse: int | None = None
        self._format = torch.channels_last if config.options["layout"] == "channels_last" else torch.contiguous_format
        convert(net, config.precision)
        self._net = net.to(device=self._device, memory_format=self._format)  # type: ignore[call-overload]
        if config.artefact is not None and config.artefact.name == SPARSE and config.artefact.exists():
            from plumbline.models import settled

            self._sparse = settled(self._net, json.loads(config.artefact.read_text()))
        self._call: Callable[..., Any] = self._net

    def place(self, arguments: tuple[Any, ...]) -> Any:
        return moved(arguments, self._device, self._dtype, self._format)

    def run(self, placed: Any) -> Any:
        return self._call(*placed)

    def weights_bytes(self) -> int:
        return stored_bytes(self._net)

    def share_in_precision(self, placed: Any, layers: Sequence[Layer]) -> float:
        return share_in(self._net, self._config.precision, layers)

    def profile(self, placed: Any, repeats: int) -> list[Kernel]:
        """By forward hooks: the time in each module less that in its children, which leaves what its `forward` does itself."""
        if self._config.device_kind != "cpu":
            return profiled(self.run, placed, repeats)
        from plumbline.harness.timing import Spans

        spans = Spans()

        def begin(name: str) -> Callable[..., None]:
            return lambda *_: spans.begin(name)

        modules = {name: module for name, module in self._net.named_modules() if "parametrizations" not in name}
        for _ in range(UNTIMED):
            self._net(*placed)
        hooks = [module.register_forward_pre_hook(begin(name)) for name, module in modules.items()]
        hooks += [module.register_forward_hook(lambda *_: spans.end()) for module in modules.values()]
        try:
            for _ in range(repeats):
                self._net(*placed)
        finally:
            for hook in hooks:
                hook.remove()
        return [
            Kernel(name or "(itself)", type(module).__name__, seconds / repeats, number_format=_multiplied(module), layer=name)
            for name, seconds in spans.seconds.items()
            for module in (modules[name],)
        ]

    def read_back(self) -> dict[str, Any]:
        import torch

        kernels = [weight for weight in self._net.parameters() if weight.ndim == 4]
        last = bool(kernels) and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
        return {
            "threads": torch.get_num_threads(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "mode": "inference" if torch.is_inference_mode_enabled() else "no_grad",
            **({} if self._sparse is None else {"sparse_layers": self._sparse}),
            "layout": "channels_last" if last and self._format == torch.channels_last else "contiguous",
        }


def _multiplied(module: nn.Module) -> str | None:
    """Return the number format of the matrix or kernel that a module multiplies by; None where it has none."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim < 2:
        return None
    return str(getattr(weight, "qdata", weight).dtype).removeprefix("torch.")

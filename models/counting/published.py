"""What the four studies and the architectures' papers report: counts, to the digits in which they give them, and accuracies.

Facts, with their source; `plumbline counts` and `reproduce` put them beside this project's, `benchmarks/` asserts the counts.
Studies: mixer-nano (MLP-Mixer on a Jetson Nano), mnist-mlp (on-device MLP sweeps), cifar-gpu (AlexNet and ViT on CIFAR-10) and
edge-limits (parametrised CNNs on Jetson Nano and RTX 3070).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal


@dataclass(frozen=True)
class Published:
    """One figure. `value` is as printed, in base units: its last digit says how far it can be held to.

    `metric` is parameters or macs. `layer`: of the layers below that name only. `beyond` names what the source counts
    as a MAC and this project's convention does not (the kinds of docs/counting.md).
    """

    model: str
    image_size: int
    metric: str
    value: str
    source: str
    layer: str | None = None
    beyond: tuple[str, ...] = ()
    note: str = ""

    def agrees(self, counted: int) -> bool:
        """Return whether a figure of this project, rounded to the last digit that was printed, is the published one."""
        printed = Decimal(self.value)
        return Decimal(counted).quantize(Decimal((0, (1,), int(printed.as_tuple().exponent))), ROUND_HALF_UP) == printed


def published(model: str, image_size: int) -> Iterator[Published]:
    """Return the figures for a model, by its name with options, at an image size in pixels."""
    return (figure for figure in PUBLISHED if (figure.model, figure.image_size) == (model, image_size))


@dataclass(frozen=True)
class Reported:
    """An accuracy that a study reports, as a share of the test images.

    `runtime` and `precision` are those of the cell that stands for it here; `note` says what its conditions were.
    """

    model: str
    image_size: int
    top1: float
    source: str
    top5: float | None = None
    note: str = ""
    runtime: str = "eager"
    precision: str = "fp32"


def _grid(model: str, source: str, macs: Mapping[int, str]) -> list[Published]:
    return [Published(model, size, "macs", value, source) for size, value in macs.items()]


# The Mixer study's counter is said to count GELU and norms too. GELU it does; with the norms, M/16 at 224 pixels would be
# 7.331 GMAC, and the study reports 7.329.
HOOKS = ("activations",)
HOOKED = "its counter counts GELU, too"
DOCUMENTED = "torchvision's documentation"

PUBLISHED = [
    Published("mlp", 28, "parameters", "2913290", "mnist-mlp, 1.4"),
    Published("mlp", 28, "parameters", "803840", "mnist-mlp, 1.4", layer="linear0"),
    Published("mlp", 28, "parameters", "1049600", "mnist-mlp, 1.4", layer="linear1"),
    Published("mlp", 28, "parameters", "1049600", "mnist-mlp, 1.4", layer="linear2"),
    Published("mlp", 28, "parameters", "10250", "mnist-mlp, 1.4", layer="linear3"),
    Published("mlp", 28, "macs", "2910208", "mnist-mlp, 1.5", note="it calls them FLOPs"),
    Published("mixer_s16", 32, "parameters", "17.2e6", "mixer-nano, table 9"),
    Published("mixer_s16", 32, "macs", "0.078e9", "mixer-nano, table 9", beyond=HOOKS, note=HOOKED),
    Published("mixer_m16", 32, "parameters", "33.4e6", "mixer-nano, table 10"),
    Published("mixer_m16", 32, "macs", "0.152e9", "mixer-nano, table 10", beyond=HOOKS, note=HOOKED),
    Published("mixer_m16+data=cifar10", 224, "parameters", "34.6e6", "mixer-nano, table 10"),
    Published("mixer_m16+data=cifar10", 224, "macs", "7.329e9", "mixer-nano, table 10", beyond=HOOKS, note=HOOKED),
    Published("mixer_b16+data=cifar10", 224, "parameters", "59e6", "mixer-nano, ch. 4.2", note="approximately"),
    Published("alexnet_cifar", 32, "parameters", "23490378", "cifar-gpu, slides"),
    *(
        Published("alexnet_cifar", 32, "parameters", value, "cifar-gpu, slides", layer=layer)
        for layer, value in {
            "conv1": "23296", "conv2": "307392", "conv3": "663936", "conv4": "884992", "conv5": "590080",
            "dense1": "4198400", "dense2": "16781312", "dense3": "40970",
        }.items()
    ),
    Published("vit_cifar", 32, "parameters", "6061578", "cifar-gpu, slides", note="and 7 normalisation statistics"),
    Published("vit_cifar", 32, "parameters", "8576", "cifar-gpu, slides", layer="patch_encoder"),
    Published("vit_cifar", 32, "parameters", "66368", "cifar-gpu, slides", layer="blocks.0.attention"),
    Published("mobilenet_v3_large", 224, "parameters", "5.5e6", "edge-limits, table 2"),
    *_grid("mobilenet_v3_large", "edge-limits, table 2", {224: "0.22e9", 192: "0.16e9", 160: "0.11e9", 112: "0.06e9"}),
    Published("vgg16", 224, "parameters", "138.4e6", "edge-limits, table 2"),
    *_grid("vgg16", "edge-limits, table 5", {224: "15.47e9", 192: "11.4e9", 160: "7.95e9", 112: "3.96e9"}),
    Published("resnet50", 224, "parameters", "25.6e6", "edge-limits, table 2"),
    *_grid("resnet50", "edge-limits, table 6", {224: "4.09e9", 192: "3.00e9", 160: "2.09e9", 112: "1.08e9"}),
    Published("squeezenet1_1", 224, "parameters", "1235496", DOCUMENTED),
    Published("squeezenet1_1", 224, "macs", "0.35e9", DOCUMENTED),
    Published("resnet18", 224, "parameters", "11689512", DOCUMENTED),
    Published("resnet18", 224, "macs", "1.81e9", DOCUMENTED),
    Published("mobilenet_v2", 224, "parameters", "3504872", DOCUMENTED),
    Published("mobilenet_v2", 224, "macs", "0.30e9", DOCUMENTED),
    Published("vit_b_16", 224, "parameters", "86567656", DOCUMENTED),
    Published("vit_b_16", 224, "macs", "17.56e9", DOCUMENTED),
    Published("vit_l_16", 224, "parameters", "304326632", DOCUMENTED),
    Published("vit_l_16", 224, "macs", "61.55e9", DOCUMENTED),
    Published("ssdlite320_mobilenet_v3_large", 320, "parameters", "3440060", DOCUMENTED),
    Published("ssdlite320_mobilenet_v3_large", 320, "macs", "0.58e9", DOCUMENTED),
    # the papers' own
    Published("resnet20", 32, "parameters", "0.27e6", "He et al. 2015, table 6"),
    Published("resnet32", 32, "parameters", "0.46e6", "He et al. 2015, table 6"),
    Published("resnet44", 32, "parameters", "0.66e6", "He et al. 2015, table 6"),
    Published("resnet56", 32, "parameters", "0.85e6", "He et al. 2015, table 6"),
    Published("resnet110", 32, "parameters", "1.7e6", "He et al. 2015, table 6"),
]  # fmt: skip

REPORTED = [
    Reported("mlp+recipe=study", 28, 0.97, "mnist-mlp, figure 1", note="2 epochs of Adam, in batches of 64"),
    Reported("mlp", 28, 0.97, "mnist-mlp, figure 1", note="2 epochs, by this project's recipe"),
    Reported("alexnet_cifar", 32, 0.5386, "cifar-gpu, report", top5=0.8949),
    Reported("alexnet_cifar", 32, 0.5386, "cifar-gpu, report", 0.8949, "TFLite, float16 weights", "eager", "w16"),
    Reported("alexnet_cifar", 32, 0.5381, "cifar-gpu, report", 0.8964, "TFLite, dynamic range", "onnxruntime", "int8-dynamic"),
    Reported("alexnet_cifar_residual", 32, 0.5478, "cifar-gpu, report", 0.9027, "whose labels are ambiguous"),
    Reported("vit_cifar", 32, 0.6497, "cifar-gpu, report", top5=0.9686),
    Reported("mixer_s16", 32, 0.5513, "mixer-nano, table 9"),
    Reported("mixer_m16", 32, 0.5783, "mixer-nano, table 10"),
    Reported("mixer_s16+data=cifar10", 224, 0.609, "mixer-nano, ch. 4.6"),
    Reported("mixer_m16+data=cifar10", 224, 0.7004, "mixer-nano, table 10"),
    Reported("mixer_b16+data=cifar10", 224, 0.95, "mixer-nano, ch. 3.2", note="fine-tuned from ImageNet-21k weights"),
    Reported("mixer_b16+data=cifar10", 224, 0.93, "mixer-nano, ch. 4.4", note="fine-tuned, run in fp16", precision="fp16"),
    Reported("resnet20", 32, 0.9173, "akamaster/pytorch_resnet_cifar10", note="its weights"),
    Reported("resnet56", 32, 0.9339, "akamaster/pytorch_resnet_cifar10", note="its weights"),
]

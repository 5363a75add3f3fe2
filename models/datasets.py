"""Labelled pictures, by name. Importing this imports no torch; loading does."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_FOLDERS = ("imagenet", "imagenet-sample")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class NoData(LookupError):
    """A data set that is not on this machine; the message says where it was looked for."""


@dataclass(frozen=True)
class Preparation:
    """How pictures become a model's input.

    `mean` and `std` are of pixels from 0 to 1; None for the data set's own. Of a large picture the middle is shown:
    `crop` is its share of the shorter side, after the picture was resized, `bicubic` or bilinear. ImageNet's usual crop
    shows 224 of 256 pixels; published accuracies depend on it.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float = 224 / 256
    bicubic: bool = False


AS_USUAL = Preparation()


@dataclass(frozen=True)
class DataSet:
    """`image_size` is the size at which its pictures are usually shown to a model, in pixels."""

    name: str
    image_size: int
    channels: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures: Callable[[Path | None, str], tuple[str, Sequence[Any], Sequence[int]]]
    embedded: bool = False
    folders: tuple[str, ...] = ()

    def missing(self, root: Path | None) -> str | None:
        """Why its pictures cannot be here; None where a folder of that name is. Reads nothing."""
        if self.embedded or (root is not None and any((root / folder).is_dir() for folder in self.folders)):
            return None
        return (
            "no data root was given (--data ROOT or $PLUMBLINE_DATA)" if root is None else f"no folder {self.folders[0]!r} there"
        )

    def load(
        self,
        root: Path | None,
        image_size: int,
        split: str = "test",
        preparation: Preparation = AS_USUAL,
    ) -> Images:
        """The pictures of a split, prepared for a model at `image_size`.

        Raises `NoData` where `root` does not hold them; a folder that is there and damaged raises
        torchvision's own error.
        """
        where, pictures, labels = self.pictures(root, split)
        return Images(self, where, pictures, list(labels), image_size, preparation)


class Images:
    """Pictures and labels; `batch` decodes, resizes and normalises just those it is asked for."""

    def __init__(
        self,
        data: DataSet,
        name: str,
        pictures: Sequence[Any],
        labels: list[int],
        image_size: int,
        preparation: Preparation = AS_USUAL,
    ) -> None:
        import torch
        from torchvision.transforms import v2

        self.name, self.labels = name, labels
        self._pictures = pictures
        self._resize = v2.Identity()
        if data.name != "imagenet" and image_size != data.image_size:
            self._resize = v2.Resize((image_size, image_size), antialias=True)
        self._image_size = image_size
        self._cropped, self._preparation = data.name == "imagenet", preparation
        normalise = v2.Normalize(list(preparation.mean or data.mean), list(preparation.std or data.std))
        self._to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Iterable[int]) -> Tensor:
        """float32, shape (n, channels, image_size, image_size)."""
        import torch

        return torch.stack([self._to_tensor(self._fit(self._pictures[index])) for index in indices])

    def close(self) -> None:
        """Let go of the pictures; the labels stay."""
        self._pictures = []

    def _fit(self, picture: Any) -> Any:
        if not self._cropped:
            return self._resize(picture)
        # Pictures that come prepared (a shorter side between the two) are only cropped: scaling them again would blur them.
        from torchvision.transforms import v2

        size, short = self._image_size, min(picture.size)
        resized = int(size / self._preparation.crop + 1e-6)
        if not size <= short <= resized:
            way = v2.InterpolationMode.BICUBIC if self._preparation.bicubic else v2.InterpolationMode.BILINEAR
            picture = v2.functional.resize(picture, [resized], interpolation=way, antialias=True)
        return v2.functional.center_crop(picture, [size, size])


def _digits(root: Path | None, split: str) -> tuple[str, Sequence[Any], Sequence[int]]:
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(range(len(digits.target)), test_size=500, random_state=0, stratify=digits.target)
    chosen = train if split == "train" else test
    images = torch.from_numpy(digits.images[chosen] * (255 / 16)).round().to(torch.uint8)
    return "digits", list(images.unsqueeze(1)), digits.target[chosen].tolist()


def _from_torchvision(name: str, folder: str) -> Callable[[Path | None, str], tuple[str, Sequence[Any], Sequence[int]]]:
    def pictures(root: Path | None, split: str) -> tuple[str, Sequence[Any], Sequence[int]]:
        import torchvision

        where = _within(root, folder, f"torchvision's {name}")
        data = getattr(torchvision.datasets, name)(root=where, train=split == "train", download=False)
        return folder, _Pictures(data), [int(label) for label in data.targets]

    return pictures


def _imagenet(root: Path | None, split: str) -> tuple[str, Sequence[Any], Sequence[int]]:
    import torchvision

    if root is not None and (root / "imagenet" / "val").is_dir():
        data = torchvision.datasets.ImageFolder(root / "imagenet" / "val")
        return "imagenet", _Pictures(data), [int(label) for label in data.targets]
    for folder in (*IMAGENET_FOLDERS, "."):
        if root is not None and (root / folder / "labels.csv").is_file():
            with (root / folder / "labels.csv").open(newline="") as table:
                rows = list(csv.DictReader(table))
            files = [root / folder / row["file"] for row in rows]
            return (root / folder).resolve().name, _Files(files), [int(row["class_index"]) for row in rows]
    _within(root, "imagenet", "ImageNet's val/ folder, or pictures with a labels.csv (columns file, class_index)")
    raise NoData(f"no val/ folder and no labels.csv in {'imagenet'!r} or {'imagenet-sample'!r} of the data root")


def _within(root: Path | None, folder: str, what: str) -> Path:
    if root is None:
        raise NoData(f"no data root was given; --data ROOT with ROOT/{folder} holding {what}")
    if not (root / folder).is_dir():
        raise NoData(f"the data root has no folder {folder!r}, wanted {what} in it")
    return root / folder


class _Pictures(Sequence[Any]):
    """The pictures of a torchvision data set, without their labels."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        return self._data[index][0]


class _Files(Sequence[Any]):
    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> Any:
        from PIL import Image

        with Image.open(self._paths[index]) as picture:
            return picture.convert("RGB")


DATASETS = {
    data.name: data
    for data in (
        DataSet("digits", 8, 1, 10, (0.305,), (0.376,), _digits, embedded=True),
        DataSet("mnist", 28, 1, 10, (0.1307,), (0.3081,), _from_torchvision("MNIST", "mnist"), folders=("mnist",)),
        DataSet("cifar10", 32, 3, 10, IMAGENET_MEAN, IMAGENET_STD, _from_torchvision("CIFAR10", "cifar10"), folders=("cifar10",)),
        DataSet("imagenet", 224, 3, 1000, IMAGENET_MEAN, IMAGENET_STD, _imagenet, folders=IMAGENET_FOLDERS),
    )
}

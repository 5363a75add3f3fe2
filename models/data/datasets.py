"""Labelled pictures, by name. Importing this imports no torch; loading does."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline import NotHere, PlumblineError

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_FOLDERS = ("imagenet", "imagenet-sample")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


TREATMENTS = ("resize", "crop")


class NoData(NotHere):
    """A data set that is not on this machine; the message says where it was looked for, and how to get it."""


class BadData(PlumblineError, RuntimeError):
    """A data set that is there, and incomplete or damaged; the message names the file."""


@dataclass(frozen=True)
class Preparation:
    """How pictures become a model's input.

    `mean` and `std` are of pixels from 0 to 1; None for the data set's own. Of a large picture the middle is shown:
    `crop` is its share of the shorter side, after the picture was resized, `bicubic` or bilinear. ImageNet's usual crop
    shows 224 of 256 pixels; published accuracies depend on it. Small pictures are brought to another size by `treatment`:
    resize, or crop their middle (the two of the MNIST study, section 1.8).
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float = 224 / 256
    bicubic: bool = False
    treatment: str = "resize"


AS_USUAL = Preparation()


@dataclass(frozen=True)
class DataSet:
    """`image_size` is the size at which its pictures are usually shown to a model, in pixels.

    `pictures` takes the data root and a split, `train` or `test`, and returns the name, the pictures (uint8, shape
    (n, channels, height, width), or files to be decoded) and their labels. `folders` of the data root may hold it, `contents`
    says what they hold. `validation` is how many pictures of the training split are held out to watch the training by.
    """

    name: str
    image_size: int
    channels: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures: Callable[[Path | None, str], tuple[str, Any, Sequence[int]]]
    embedded: bool = False
    folders: tuple[str, ...] = ()
    contents: str = ""
    validation: int = 0
    fetch: Callable[[Path], None] | None = None

    def missing(self, root: Path | None) -> str | None:
        """Return why its pictures cannot be here; None where a folder of that name is. Reads nothing."""
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
        """Return the pictures of a split, prepared for a model at `image_size`.

        Raises `NoData` where `root` does not hold them, and `BadData` where a folder that is there is incomplete or damaged.
        """
        if not self.embedded:
            folder = self.folders[0]
            how = f"ROOT/{folder} holds {self.contents}. {self._online(folder)}Offline: copy them there"
            if root is None:
                raise NoData(f"no data root was given; --data ROOT (or $PLUMBLINE_DATA), where {how}")
            from plumbline.models.data import imagenet

            here = any((root / name).is_dir() for name in self.folders)
            if not here and not (self.name == "imagenet" and imagenet.table_of(root)):
                raise NoData(f"the data root has no folder {folder!r}; expected: {how}")
        where, pictures, labels = self.pictures(root, split)
        return Images(self, where, pictures, list(labels), image_size, preparation)

    def _online(self, folder: str) -> str:
        return "" if self.fetch is None else f"Online: plumbline data {self.name} --data ROOT fetches them. "


class Images:
    """Pictures and labels.

    Small pictures are held as one tensor of uint8; `batch` decodes, resizes and normalises those that it is asked for.
    """

    def __init__(
        self,
        data: DataSet,
        name: str,
        pictures: Any,
        labels: list[int],
        image_size: int,
        preparation: Preparation = AS_USUAL,
    ) -> None:
        import torch
        from torchvision.transforms import v2

        self.name, self.labels = name, labels
        self._pictures = pictures
        self._image_size, self._preparation = image_size, preparation
        shape = (image_size, image_size)
        resize = v2.Resize(shape, antialias=True) if preparation.treatment == "resize" else v2.CenterCrop(shape)
        self._resize = v2.Identity() if image_size == data.image_size else resize
        # of bytes from 0 to 255, in two passes over them; v2.ToDtype and v2.Normalize take 0.3 ms for a batch of an MLP's 5
        self._mean = 255 * torch.tensor(preparation.mean or data.mean).reshape(-1, 1, 1)
        self._std = 255 * torch.tensor(preparation.std or data.std).reshape(-1, 1, 1)
        self._shrinks = image_size < data.image_size

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether the pictures are one tensor; else each is a file, decoded when it is asked for."""
        import torch

        return isinstance(self._pictures, torch.Tensor)

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Return float32 pictures, shape (n, channels, image_size, image_size), on the device where the pictures are."""
        import torch

        if self.in_memory:
            chosen = indices if isinstance(indices, torch.Tensor) else torch.tensor(indices, dtype=torch.int64)
            return self.normalised(self._resize(self._pictures[chosen]))
        return self.normalised(torch.stack([self._fit(self.decoded(int(index))) for index in indices]))

    def decoded(self, index: int) -> Any:
        """Return one picture, decoded. Raises `BadData` with its name where that fails."""
        return self._pictures[index]

    def part_by_chance(self, index: int, least_area: float) -> Tensor:
        """Return a part of one decoded picture, scaled; uint8, shape (channels, image_size, image_size)."""
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop((self._image_size, self._image_size), scale=(least_area, 1.0), antialias=True)
        return v2.functional.to_image(crop(self.decoded(index)))

    def verify(self) -> None:
        """Look into each file, its beginning and its end. Raises `BadData` with the name of one that is cut off or no picture."""
        if not self.in_memory:
            self._pictures.verify()

    def to(self, device: str) -> Images:
        """Move the pictures to a device, where they are one tensor, and resize them now where that makes them smaller.

        In place: whoever does this uses all of them, again and again.
        """
        from torchvision.transforms import v2

        if self.in_memory:
            if self._shrinks:
                self._pictures, self._resize = self._resize(self._pictures), v2.Identity()
            self._pictures, self._mean, self._std = (kept.to(device) for kept in (self._pictures, self._mean, self._std))
        return self

    def close(self) -> None:
        """Let go of the pictures; the labels stay."""
        self._pictures = []

    def normalised(self, pictures: Tensor) -> Tensor:
        """Return float32 of pictures of uint8, with the data set's mean and standard deviation taken off."""
        return (pictures - self._mean).div_(self._std)

    def _fit(self, picture: Any) -> Tensor:
        # Pictures that come prepared (a shorter side between the two) are only cropped: scaling them again would blur them.
        from torchvision.transforms import v2

        size, short = self._image_size, min(picture.size)
        resized = int(size / self._preparation.crop + 1e-6)
        if not size <= short <= resized:
            way = v2.InterpolationMode.BICUBIC if self._preparation.bicubic else v2.InterpolationMode.BILINEAR
            picture = v2.functional.resize(picture, [resized], interpolation=way, antialias=True)
        return v2.functional.to_image(v2.functional.center_crop(picture, [size, size]))


def held_out(count: int, validation: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split `count` pictures by chance: return the indices to train on, and those to watch the training by."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[validation:].sort().values, order[:validation].sort().values


def _digits(root: Path | None, split: str) -> tuple[str, Tensor, Sequence[int]]:
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(range(len(digits.target)), test_size=500, random_state=0, stratify=digits.target)
    chosen = train if split == "train" else test
    images = torch.from_numpy(digits.images[chosen] * (255 / 16)).round().to(torch.uint8)
    return "digits", images.unsqueeze(1), digits.target[chosen].tolist()


def _mnist(name: str, folder: str) -> Callable[[Path | None, str], tuple[str, Tensor, Sequence[int]]]:
    """MNIST, or what has its format (LeCun's idx): each file must be as long as its header says."""

    def pictures(root: Path | None, split: str) -> tuple[str, Tensor, Sequence[int]]:
        import torchvision

        assert root is not None
        raw = root / folder / name / "raw"
        for part, count in (("train", 60_000), ("t10k", 10_000)):
            _check_idx(raw, f"{part}-images-idx3-ubyte", 2051, (count, 28, 28))
            _check_idx(raw, f"{part}-labels-idx1-ubyte", 2049, (count,))
        data = getattr(torchvision.datasets, name)(root=root / folder, train=split == "train", download=False)
        labels = data.targets.tolist()
        if set(labels) != set(range(10)):
            raise BadData(f"{folder}: labels of {sorted(set(labels))[:12]}, expected 0 to 9; fetch the files again")
        blank = int((data.data.flatten(1).amax(dim=1) == 0).sum())  # of a copy that was broken off, the end is zeros
        if blank:
            raise BadData(f"{folder}: {blank} pictures of the {split} split are blank, expected none; fetch the files again")
        return folder, data.data.unsqueeze(1), labels

    return pictures


def _check_idx(folder: Path, name: str, magic: int, shape: tuple[int, ...]) -> None:
    path = folder / name
    if not path.is_file():
        packed = " (it is there as .gz: unpack it with gunzip -k)" if path.with_name(f"{name}.gz").is_file() else ""
        raise BadData(f"{folder.parent.name}/raw/{name} is missing{packed}")
    header = struct.pack(f">{1 + len(shape)}I", magic, *shape)
    size = len(header) + math.prod(shape)
    with path.open("rb") as file:
        found = file.read(len(header))
    if found != header or path.stat().st_size != size:
        raise BadData(
            f"{folder.parent.name}/raw/{name} is incomplete or damaged: expected {size} bytes with the header of an idx file of "
            f"shape {shape}, got {path.stat().st_size}; fetch it again"
        )


def _cifar(name: str, folder: str) -> Callable[[Path | None, str], tuple[str, Tensor, Sequence[int]]]:
    """CIFAR's batches are pickles: torchvision's checksums come first."""

    def pictures(root: Path | None, split: str) -> tuple[str, Tensor, Sequence[int]]:
        import torch
        import torchvision
        from torchvision.datasets.utils import check_integrity

        assert root is not None
        kind = getattr(torchvision.datasets, name)
        try:
            data = kind(root=root / folder, train=split == "train", download=False)
        except RuntimeError as error:  # it has checked every file, and does not say which one it was
            for file, digest in (*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])):
                where = f"{folder}/{kind.base_folder}/{file}"
                if not (root / where).is_file():
                    raise BadData(f"{where} is missing") from error
                if not check_integrity(root / where, digest):
                    raise BadData(f"{where} is incomplete or corrupted: its MD5 is not {digest}; fetch it again") from error
            raise
        return folder, torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), [int(label) for label in data.targets]

    return pictures


def _fetch(name: str, folder: str) -> Callable[[Path], None]:
    def fetch(root: Path) -> None:
        import torchvision

        getattr(torchvision.datasets, name)(root=root / folder, download=True)

    return fetch


def _imagenet(root: Path | None, split: str) -> tuple[str, Any, Sequence[int]]:
    from plumbline.models.data import imagenet

    assert root is not None
    return imagenet.pictures(root, split)


def _small(
    name: str, image_size: int, channels: int, classes: int, mean: tuple[float, ...], std: tuple[float, ...], library: str
) -> DataSet:
    """One of torchvision's data sets that fit into memory."""
    contents = f"torchvision's {library}: " + (
        f"{'cifar-10-batches-py' if name == 'cifar10' else 'cifar-100-python'}/, as its archive has it"
        if "CIFAR" in library
        else f"{library}/raw/ with the four idx files, unpacked"
    )
    reader = _cifar if "CIFAR" in library else _mnist
    return DataSet(
        name, image_size, channels, classes, mean, std, reader(library, name),
        folders=(name,), contents=contents, validation=2000, fetch=_fetch(library, name),
    )  # fmt: skip


CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
PICTURES = (
    "val/ (and train/) with a folder for each class, called by its WordNet id or its number from 0 to 999, "
    "or pictures with a labels.csv (columns file, class_index)"
)

DATASETS = {
    data.name: data
    for data in (
        DataSet("digits", 8, 1, 10, (0.305,), (0.376,), _digits, embedded=True, validation=97),
        _small("mnist", 28, 1, 10, (0.1307,), (0.3081,), "MNIST"),
        _small("fashion_mnist", 28, 1, 10, (0.2860,), (0.3530,), "FashionMNIST"),
        _small("cifar10", 32, 3, 10, IMAGENET_MEAN, IMAGENET_STD, "CIFAR10"),
        _small("cifar100", 32, 3, 100, CIFAR100_MEAN, CIFAR100_STD, "CIFAR100"),
        DataSet(
            "imagenet", 224, 3, 1000, IMAGENET_MEAN, IMAGENET_STD, _imagenet, folders=IMAGENET_FOLDERS, contents=PICTURES,
            validation=10_000,
        ),
    )
}  # fmt: skip

"""ImageNet as people have it: a folder for each class, or pictures with a table. Importing this imports no torch."""

from __future__ import annotations

import csv
import io
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plumbline.models.data.datasets import IMAGENET_FOLDERS, BadData, NoData
from plumbline.texts import NotText, read_text

CLASSES = 1000
TABLE = "labels.csv"
COLUMNS = ("file", "class_index")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
JPEG, JPEG_END, PNG, PNG_END = b"\xff\xd8", b"\xff\xd9", b"\x89PNG", b"IEND\xaeB`\x82"


def pictures(root: Path, split: str) -> tuple[str, Files, list[int]]:
    """Return name, files and labels of a split, `train` or `test`; 0 to 999 in the order of ImageNet's WordNet ids."""
    part = root / "imagenet" / ("train" if split == "train" else "val")
    if part.is_dir():
        found = [(path, label) for folder, label in _classes(part) for path in _within(folder, f"imagenet/{part.name}")]
        return "imagenet", Files([path for path, _ in found]), [label for _, label in found]
    if split == "train":
        raise NoData("ROOT/imagenet has no folder 'train', with a folder of pictures for each class")
    for name in (*IMAGENET_FOLDERS, "."):
        table = table_of(root / name)
        if table is not None:
            rows = _rows(table)
            return table.parent.resolve().name, Files([path for path, _ in rows]), [label for _, label in rows]
    raise NoData(f"no val/ folder and no {TABLE} in {'imagenet'!r} or {'imagenet-sample'!r} of the data root")


# -- a folder for each class ---------------------------------------------------------------------------------------


def _classes(part: Path) -> list[tuple[Path, int]]:
    """Return the folders of a split, each with its class.

    Classes are not numbered in the order of the folders that happen to be here: where the thousand are not complete, every class
    behind the first that is missing would be another one.
    """
    import timm.data  # torchvision ships the classes' names, and not their ids

    where = f"imagenet/{part.name}"
    places = {name: place for place, name in enumerate(timm.data.ImageNetInfo().label_names())}
    found: dict[int, Path] = {}
    for folder in sorted(path for path in part.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = int(folder.name) if re.fullmatch(r"[0-9]{1,4}", folder.name) else places.get(folder.name, CLASSES)
        if label >= CLASSES:
            raise BadData(
                f"{where}/{folder.name}: expected as the name of a folder the WordNet id of one of ImageNet's {CLASSES} classes "
                f"(n01440764) or its number (0 to {CLASSES - 1}); rename it, or list the pictures in imagenet/{TABLE}"
            )
        if label in found:
            raise BadData(f"{where}/{folder.name} and {where}/{found[label].name} are one class, {label}; merge them")
        found[label] = folder
    if not found:
        raise BadData(f"{where} has no folders, expected one for each class; make them, or list the pictures in imagenet/{TABLE}")
    return [(folder, label) for label, folder in found.items()]


def _within(folder: Path, where: str) -> list[Path]:
    """The pictures of a class, in the order of their names; hidden files (macOS leaves `._NAME` beside NAME) are none."""
    found = []
    for inner, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = (name for name in sorted(names) if not name.startswith(".") and name.lower().endswith(PICTURES))
        found += [Path(inner, name) for name in kept]
    if not found:
        raise BadData(f"{where}/{folder.name} has no picture, expected some ({', '.join(PICTURES)}); fill it, or take it away")
    return found


# -- pictures with a table -----------------------------------------------------------------------------------------


def table_of(folder: Path) -> Path | None:
    """Return the table in a folder, in capitals or not; None where there is none."""
    if not folder.is_dir():
        return None
    named = [path for path in sorted(folder.iterdir()) if path.name.lower() == TABLE and path.is_file()]
    if len(named) > 1:
        raise BadData(f"{folder.resolve().name}: expected one {TABLE}, got {' and '.join(path.name for path in named)}; keep one")
    return named[0] if named else None


def _rows(table: Path) -> list[tuple[Path, int]]:
    """Pictures and classes; every mistake is named by its line, counted from 1."""
    where = f"{table.parent.resolve().name}/{table.name}"
    try:
        rows = _lines(read_text(table), where)
    except NotText as error:
        raise BadData(f"{where}, {error}") from error
    header_line, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            raise BadData(
                f"{where}, line {header_line}: expected the columns {' and '.join(COLUMNS)}, once each, "
                f"got {', '.join(names) or 'nothing'}"
            )
    at_file, at_class = (names.index(column) for column in COLUMNS)
    found: dict[Path, tuple[int, int]] = {}
    for line, row in rows:
        if len(row) <= max(at_file, at_class):
            raise BadData(f"{where}, line {line}: expected {len(names)} columns, got {len(row)}")
        path, text = _beside(table.parent, row[at_file].strip(), f"{where}, line {line}"), row[at_class].strip()
        label = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else CLASSES
        if label >= CLASSES:
            raise BadData(f"{where}, line {line}: expected a class_index from 0 to {CLASSES - 1}, got {text!r}")
        if found.setdefault(path, (label, line))[0] != label:
            other, before = found[path]
            raise BadData(
                f"{where}, line {line}: {path.name} is of class {label} here, and of {other} in line {before}; keep one"
            )
    if not found:
        raise BadData(f"{where} has no pictures; expected a line for each, below the names of the columns")
    return [(path, label) for path, (label, _) in found.items()]


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, each with its line; the separator is what the header is separated by (Excel's: by country)."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=header.count), strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise BadData(f"{where}, line {reader.line_num}: expected a row of a CSV file: {error}") from error


def _beside(folder: Path, name: str, where: str) -> Path:
    """The file of a row; a table that was made on Windows may separate folders by backslashes."""
    for path in (folder / name, folder / name.replace("\\", "/")):
        if name and "\0" not in name and path.is_file():
            return path
    raise BadData(f"{where}: expected a picture, there is no file {name!r} beside the table")


# -- the pictures --------------------------------------------------------------------------------------------------


class Files(Sequence[Any]):
    """Pictures that are decoded when they are asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def verify(self) -> None:
        """Check the first and last bytes of each file, and decode what is doubtful.

        The format is told by the first bytes, not by the name: one of ImageNet's .JPEG is a PNG, and cameras write what they
        please behind the end.
        """
        for index, path in enumerate(self._paths):
            with path.open("rb") as file:
                begin = file.read(4)
                file.seek(max(0, path.stat().st_size - len(PNG_END)))
                end = file.read()
            whole = (begin.startswith(JPEG) and end.endswith(JPEG_END)) or (begin == PNG and end == PNG_END)
            if not whole:
                try:
                    self[index]
                except BadData as error:
                    raise BadData(f"{_called(path)} is empty, cut off or no picture; copy it again ({error})") from error

    def __getitem__(self, index: Any) -> Any:
        from PIL import Image

        path = self._paths[index]
        try:
            with Image.open(path) as picture:
                return _eight_bits(picture).convert("RGB")
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
            # PIL's own errors are OSErrors; of a broken PNG it raises SyntaxErrors, of a broken TIFF any of these
            raise BadData(f"{_called(path)} cannot be decoded: {error}") from error


def _called(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _eight_bits(picture: Any) -> Any:
    """A picture of at most eight bits a channel. PIL's own conversion of 16 bits cuts off at 255: all but black becomes white."""
    import numpy as np
    from PIL import Image

    # PIL's mode for 32 bits holds the 16 of a PGM, and in older versions of a PNG
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        levels = np.asarray(picture).astype(np.int64)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, got {picture.mode}, numbers of 32 bits whose white nobody knows")
    return picture

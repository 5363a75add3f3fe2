"""ImageNet as people have it: which class a folder is, tables as spreadsheets write them, pictures as cameras do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plumbline.models.data.datasets import DATASETS, BadData, Images

RED = Image.new("RGB", (40, 40), (255, 0, 0))


def encoded(picture: Any, kind: str = "JPEG", **settings: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def tree(root: Path, **files: bytes) -> Path:
    """A data root with these files in `imagenet/`, their folders separated by two underscores."""
    for name, data in files.items():
        path = root / "imagenet" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def load(root: Path, split: str = "test") -> Images:
    return DATASETS["imagenet"].load(root, 32, split=split)


# -- a folder for each class ---------------------------------------------------------------------------------------


def test_each_folder_is_its_class_however_many_there_are(tmp_path: Path) -> None:
    """The places of the ids as Imagenette's own list has them; sorted and counted they would be 0 to 3."""
    places = {"n01440764": 0, "n02102040": 217, "n03425413": 571, "n03888257": 701}
    for name in places:
        for split in ("train", "val"):
            path = tmp_path / "imagenet" / split / name / "a.JPEG"
            path.parent.mkdir(parents=True)
            path.write_bytes(encoded(RED))
    assert load(tmp_path).labels == load(tmp_path, "train").labels == [*places.values()]


def test_folders_may_be_numbered(tmp_path: Path) -> None:
    """Sorted as text, 10 would come before 2."""
    picture = encoded(RED)
    root = tree(tmp_path, val__2__a=b"", val__2__b_jpeg=b"")
    for number in ("2", "10", "0999"):
        (root / "imagenet" / "val" / number).mkdir(exist_ok=True)
        (root / "imagenet" / "val" / number / "a.jpg").write_bytes(picture)
    assert sorted(load(root).labels) == [2, 10, 999]
    (root / "imagenet" / "val" / "002").mkdir()
    with pytest.raises(BadData, match=r"imagenet/val/2 and imagenet/val/002 are one class, 2; merge them"):
        load(root)


@pytest.mark.parametrize("name", ["n12345678", "1000", "tench", "-1", "__MACOSX", "lost+found"])
def test_a_folder_that_is_no_class_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    for folder in ("n01440764", name):
        (tmp_path / "imagenet" / "val" / folder).mkdir(parents=True)
        (tmp_path / "imagenet" / "val" / folder / "a.jpg").write_bytes(encoded(RED))
    with pytest.raises(BadData) as caught:
        load(tmp_path)
    assert f"imagenet/val/{name}: expected as the name of a folder the WordNet id" in str(caught.value)


def test_what_is_hidden_is_no_picture_and_no_class(tmp_path: Path) -> None:
    """As Jupyter's and macOS's traces."""
    for name in ("n02102040/a.jpg", "n02102040/._a.jpg", ".ipynb_checkpoints/a.jpg", "n02102040/.thumbs/a.jpg"):
        path = tmp_path / "imagenet" / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(RED))
    assert load(tmp_path).labels == [217]
    (tmp_path / "imagenet" / "val" / "n02102040" / "a.jpg").unlink()
    with pytest.raises(BadData, match="imagenet/val/n02102040 has no picture"):
        load(tmp_path)


def test_pictures_without_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="imagenet/val has no folders, expected one for each class"):
        load(tree(tmp_path, **{"val__a.jpg": encoded(RED)}))


# -- pictures with a table -----------------------------------------------------------------------------------------

TABLE = "file,class_index\nä b.jpg,3\nc.JPG,999\n"


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(TABLE.encode("utf-8-sig"), id="byte order mark"),
        pytest.param(TABLE.encode("utf-16"), id="UTF-16"),
        pytest.param(TABLE.encode("utf-16-le"), id="UTF-16 without a mark"),
        pytest.param(TABLE.encode("utf-16-be"), id="UTF-16, big end first, without a mark"),
        pytest.param(TABLE.encode("utf-32"), id="UTF-32"),
        pytest.param(TABLE.replace(",", ";").encode(), id="semicolons"),
        pytest.param(TABLE.replace(",", "\t").encode(), id="tabs"),
        pytest.param(TABLE.replace(",", " , ").encode(), id="blanks"),
        pytest.param(TABLE.replace("file,class_index", "File,CLASS_INDEX").encode(), id="capitals"),
        pytest.param(TABLE.replace("\n", "\r\n\r\n").encode(), id="line ends of Windows, and empty lines"),
        pytest.param(TABLE.replace("\n", "\r").encode(), id="line ends of old"),
        pytest.param(TABLE.replace("c.JPG", '"c.JPG"').encode(), id="quoted"),
        pytest.param(b"id,class_index,file\n1,3,\xc3\xa4 b.jpg\n2,999,c.JPG\n", id="another order, and more columns"),
        pytest.param(TABLE.replace("c.JPG", ".\\c.JPG").encode(), id="backslashes"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, table: bytes) -> None:
    root = tree(tmp_path, **{"ä b.jpg": encoded(RED), "c.JPG": encoded(RED), "labels.csv": table})
    assert load(root).labels == [3, 999]
    (root / "imagenet" / "labels.csv").rename(root / "imagenet" / "Labels.CSV")
    assert load(root).batch([0, 1]).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"file,class_index\na.jpg,0\na.jpg,1000\n", "line 3: expected a class_index from 0 to 999, got '1000'"),
        (b"file,class_index\n\na.jpg,-1\n", "line 3: expected a class_index from 0 to 999, got '-1'"),
        (b"file,class_index\na.jpg,tench\n", "line 2: expected a class_index from 0 to 999, got 'tench'"),
        (b"file,class_index\na.jpg,3.0\n", "line 2: expected a class_index from 0 to 999, got '3.0'"),
        (b"file,class_index\na.jpg,\n", "line 2: expected a class_index from 0 to 999, got ''"),
        (b"file,class_index\na.jpg,1\na.jpg,2\n", "line 3: a.jpg is of class 2 here, and of 1 in line 2"),
        (b"file,class_index\na.jpg\n", "line 2: expected 2 columns, got 1"),
        (b"file,class_index\nb.jpg,1\n", "line 2: expected a picture, there is no file 'b.jpg' beside the table"),
        (b"file,class_index\na\0.jpg,1\n", "line 2: expected a "),
        (b"file,class_index\n\xe4.jpg,1\n", "line 2: expected text in UTF-8, got bytes that are none"),
        (b'file,class_index\n"a.jpg,1\n', "line 2: expected a row of a CSV file"),
        (b"name,label\na.jpg,1\n", "line 1: expected the columns file and class_index, once each, got name, label"),
        (b"file,class_index,file\na.jpg,1,a.jpg\n", "line 1: expected the columns file and class_index, once each"),
        (b"", "line 1: expected the columns file and class_index, once each, got nothing"),
        (b"file,class_index\n", " has no pictures; expected a line for each"),
    ],
)
def test_a_wrong_table_is_refused_by_file_and_line(tmp_path: Path, table: bytes, message: str) -> None:
    with pytest.raises(BadData) as caught:
        load(tree(tmp_path, **{"a.jpg": encoded(RED), "labels.csv": table}))
    assert str(caught.value).startswith("imagenet/labels.csv")
    assert message in str(caught.value)


def test_two_tables_are_one_too_many(tmp_path: Path) -> None:
    root = tree(tmp_path, **{"labels.csv": b"", "LABELS.csv": b""})
    with pytest.raises(BadData, match=r"imagenet: expected one labels.csv, got LABELS.csv and labels.csv"):
        load(root)


# -- the pictures --------------------------------------------------------------------------------------------------


def shown(tmp_path: Path, name: str, data: bytes) -> Any:
    """The one picture of a folder, after it was verified as a training does; uint8, shape (40, 40, 3)."""
    images = load(tree(tmp_path, **{name: data, "labels.csv": f"file,class_index\n{name},0\n".encode()}))
    images.verify()
    return np.asarray(images.decoded(0))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("a.JPEG", encoded(RED, "PNG"), id="a PNG called JPEG, as one of ImageNet's"),
        pytest.param("a.png", encoded(RED), id="a JPEG called PNG"),
        pytest.param("a.JPEG", encoded(RED) + b"\0" * 100_000, id="bytes behind the end"),
        pytest.param("a.png", encoded(RED, "PNG") + b"\n", id="a byte behind the end of a PNG"),
        pytest.param("a.jpg", encoded(RED.convert("CMYK"), quality=95), id="four colours"),
        pytest.param("a.webp", encoded(RED, "WEBP", lossless=True), id="WebP"),
        pytest.param("a.png", encoded(RED.convert("P"), "PNG"), id="a palette"),
    ],
)
def test_what_decodes_is_a_picture(tmp_path: Path, name: str, data: bytes) -> None:
    assert np.allclose(shown(tmp_path, name, data), [255, 0, 0], atol=4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
def test_what_is_cut_off_or_empty_is_refused_by_its_name(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(BadData, match=r"^imagenet/a\.png is empty, cut off or no picture; copy it again"):
        shown(tmp_path, "a.png", data[: int(share * len(data))])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_levels(tmp_path: Path, kind: str) -> None:
    """257 is the share of one of 255 levels in 65,535; cut off at 255, all but the first of these pixels would be white."""
    levels = np.linspace(0, 65535, 40).round().astype(np.uint16)[None].repeat(40, 0)
    came = shown(tmp_path, "a.png", encoded(Image.fromarray(levels), kind))
    assert np.array_equal(came, (levels / 257).round().astype(np.uint8)[..., None].repeat(3, 2))


@pytest.mark.parametrize("numbers", [np.int32, np.float32])
def test_numbers_whose_white_nobody_knows_are_refused(tmp_path: Path, numbers: type) -> None:
    levels = Image.fromarray(np.full((40, 40), 1000).astype(numbers))
    with pytest.raises(BadData, match=r"imagenet/a\.tif cannot be decoded: expected 8 or 16 bits a channel"):
        shown(tmp_path, "a.tif", encoded(levels, "TIFF"))

"""Data sets: what is there, what is missing or damaged, and what is held out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline import UnknownName
from plumbline.models import find
from plumbline.models.data.datasets import DATASETS, BadData, NoData, held_out
from tests.pictures import idx_files


def test_digits_need_no_download_and_split_without_overlap() -> None:
    data = DATASETS["digits"]
    test, training = data.load(None, 8), data.load(None, 8, split="train")
    assert (len(test), len(training)) == (500, 1297)
    images = {tuple(image.flatten().tolist()) for image in training.batch(range(len(training)))}
    assert sum(tuple(image.flatten().tolist()) in images for image in test.batch(range(500))) <= 1
    assert abs(float(training.batch(range(1297)).mean())) < 0.05
    assert abs(float(training.batch(range(1297)).std()) - 1) < 0.05


@pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("cifar10", "cifar10"), ("imagenet", "imagenet")])
def test_data_that_is_not_there_is_said_to_be_missing(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(NoData, match="no data root was given; --data ROOT"):
        DATASETS[name].load(None, 32)
    with pytest.raises(NoData, match=f"has no folder '{folder}'"):
        DATASETS[name].load(tmp_path, 32)


def test_a_folder_of_pictures_with_labels(tmp_path: Path) -> None:
    """A picture of 300 x 400 is scaled and cropped as ImageNet's usually are, one of 227 only cropped."""
    from PIL import Image

    folder = tmp_path / "imagenet"
    (folder / "some").mkdir(parents=True)
    large, small = Image.new("RGB", (400, 300), (255, 0, 0)), Image.new("L", (227, 227), 128)
    large.save(folder / "some" / "a.png")
    small.save(folder / "some" / "b.png")
    (folder / "labels.csv").write_text("file,class_index,wnid\nsome/a.png,3,n1\nsome/b.png,999,n2\n")
    images = DATASETS["imagenet"].load(tmp_path, 224)
    assert images.labels == [3, 999]
    assert images.batch([0, 1]).shape == (2, 3, 224, 224)
    assert float(images.batch([0])[0, 0].mean()) == pytest.approx((1 - 0.485) / 0.229, abs=1e-4)


@given(st.integers(2, 300), st.floats(0, 1), st.integers(0, 5))
def test_what_is_held_out_is_not_trained_on(count: int, share: float, seed: int) -> None:
    validation = int(share * (count - 1))
    chosen, held = held_out(count, validation, seed)
    assert sorted([*chosen.tolist(), *held.tolist()]) == list(range(count))
    assert len(held) == validation
    assert torch.equal(held, held_out(count, validation, seed)[1])


def test_damaged_files_of_mnist_are_named(tmp_path: Path) -> None:
    raw = idx_files(tmp_path)
    assert len(DATASETS["mnist"].load(tmp_path, 28)) == 10_000
    images = raw / "train-images-idx3-ubyte"
    whole = images.stat().st_size
    os.truncate(images, whole - 1)
    with pytest.raises(
        BadData, match=f"MNIST/raw/train-images-idx3-ubyte is incomplete.*expected {whole} bytes.*got {whole - 1}"
    ):
        DATASETS["mnist"].load(tmp_path, 28)
    os.truncate(images, whole - 784 * 5)
    os.truncate(images, whole)  # a copy that was broken off, of which the rest is zeros
    with pytest.raises(BadData, match="5 pictures of the train split are blank"):
        DATASETS["mnist"].load(tmp_path, 28, "train")
    labels = raw / "t10k-labels-idx1-ubyte"
    good = labels.read_bytes()
    labels.write_bytes(good[:8] + bytes(10_000))
    with pytest.raises(BadData, match=r"labels of \[0\], expected 0 to 9"):
        DATASETS["mnist"].load(tmp_path, 28)
    images.unlink()
    with pytest.raises(BadData, match="MNIST/raw/train-images-idx3-ubyte is missing"):
        DATASETS["mnist"].load(tmp_path, 28)


def test_fashion_mnist_has_the_same_format(tmp_path: Path) -> None:
    idx_files(tmp_path, "FashionMNIST", "fashion_mnist")
    images = DATASETS["fashion_mnist"].load(tmp_path, 28, "train")
    assert (len(images), images.batch([0]).shape) == (60_000, (1, 1, 28, 28))


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_batches_of_cifar_are_not_unpickled_before_their_checksum_fits(tmp_path: Path, name: str, folder: str) -> None:
    place = tmp_path / name / folder
    place.mkdir(parents=True)
    with pytest.raises(BadData, match=f"{name}/{folder}/.* is missing"):
        DATASETS[name].load(tmp_path, 32)
    for file in ("data_batch_1", "train"):
        (place / file).write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    with pytest.raises(BadData, match=r"is incomplete or corrupted: its MD5 is not"):
        DATASETS[name].load(tmp_path, 32)
    assert not (tmp_path / "run").exists()


def test_data_that_are_missing_can_be_had() -> None:
    with pytest.raises(NoData, match=r"--data ROOT.*cifar-100-python.*Online: plumbline data cifar100.*Offline: copy"):
        DATASETS["cifar100"].load(None, 32)


def test_a_treatment_brings_pictures_to_a_size(tmp_path: Path) -> None:
    whole = DATASETS["digits"].load(None, 8).batch([3])
    cropped = find("mlp+treatment=crop")
    came = DATASETS["digits"].load(None, 4, preparation=cropped.preparation).batch([3])
    assert torch.equal(came, whole[:, :, 2:6, 2:6])
    resized = DATASETS["digits"].load(None, 4, preparation=find("mlp").preparation).batch([3])
    assert resized.shape == came.shape
    assert not torch.equal(resized, came)
    with pytest.raises(UnknownName, match="option 'treatment': expected resize, crop, got 'squeeze'"):
        find("mlp+treatment=squeeze")

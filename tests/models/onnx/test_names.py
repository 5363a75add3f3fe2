"""What an ONNX file is called, wherever it lies and however its path is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from plumbline import UnknownName
from plumbline.harness.cell import Cell, id_of
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.plugin.options import values
from plumbline.harness.session import matrix
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.settings import Settings
from plumbline.models.model import split
from plumbline.models.onnx.layers import stored_as
from plumbline.models.onnx.reference import reference
from plumbline.models.sources.outside import find, is_outside

TIER = matrix.load(matrix.FILE)["smoke"]


def written(path: Path, seed: int = 0, beside: str | None = None) -> Path:
    """A net of one product, its numbers in the file, or in one that lies beside it."""
    head = np.random.default_rng(seed).standard_normal((3, 10)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ("n", 3, 8, 8)), ("y", ("n", 10)))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(head, "head")])
    path.parent.mkdir(parents=True, exist_ok=True)
    outside: dict[str, Any] = {"save_as_external_data": True, "location": beside, "size_threshold": 0} if beside else {}
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path, **outside)
    return path


def ids(*references: str) -> list[str]:
    """Of the cells of these models, as a session has them."""
    for asked in references:
        matrix.learn(asked, find(asked))
    return [cell.id for cell in matrix.expand(TIER, {"model": references, "precision": ["fp32"], "batch": [1]})]


def test_files_of_one_name_are_two_cells(tmp_path: Path) -> None:
    """Told apart by what is in them, as a path is about the person; also where only the numbers beside the graph differ."""
    first, second = (str(written(tmp_path / folder / "model.onnx", seed)) for seed, folder in enumerate(("v1", "v2")))
    assert len({*ids(first, second)}) == len(ids(first, second)) == 2
    a, b = (str(written(tmp_path / folder / "model.onnx", seed, "model.data")) for seed, folder in enumerate(("a", "b")))
    assert Path(a).read_bytes() == Path(b).read_bytes()
    assert len({*ids(a, b)}) == 2
    assert not any(str(tmp_path) in name or tmp_path.name in name for name in ids(first, second, a, b))


def test_one_file_is_one_cell_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "v1" / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names = ids("v1/model.onnx", "./v1/model.onnx", "v1/../v1/model.onnx", str(file))
    assert len(names) == 1
    shutil.move(tmp_path / "v1", tmp_path / "elsewhere")
    assert ids("elsewhere/model.onnx") == names


def test_a_file_that_changes_is_another(tmp_path: Path) -> None:
    """Resuming a run does not take the new one's cell for done; within a session it is refused."""
    file = written(tmp_path / "model.onnx")
    name = find(str(file)).name
    assert find(name).name == name
    written(file, seed=1)
    assert find(str(file)).name != name
    with pytest.raises(UnknownName, match=r"^model\.onnx has changed: expected sha256=[0-9a-f]{8}, got sha256=[0-9a-f]{8}"):
        find(name)


@pytest.mark.parametrize("folder", ["c++", "a,b", "x+data=mnist", "a.onnx+b", "two words", "c:d"])
def test_any_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(written(tmp_path / folder / "net.onnx").relative_to(tmp_path))
    assert values("model", [f"small_cnn,{path}+data=cifar10,mlp"]) == ["small_cnn", f"{path}+data=cifar10", "mlp"]
    assert is_outside(f"{path}+data=cifar10")
    model = find(f"{path}+data=cifar10")
    assert (model.file, model.chosen["data"]) == (Path(path), "cifar10")
    matrix.learn(path, model)
    assert id_of(["model"], [model.name]).startswith("net.onnx+data=cifar10+sha256=")
    assert matrix.impossible(Cell(model.name, "dense", "onnxruntime", "fp32", 1, 8, "cpu")) is None


def test_what_is_no_path_is_split_as_ever() -> None:
    assert split("mlp+data=mnist+hidden=3") == ["mlp", "data=mnist", "hidden=3"]
    assert split("a.b:net") == ["a.b:net"]
    assert values("model", ["mlp,,a/none.onnx", "vgg16"]) == ["mlp", "a/none.onnx", "vgg16"]


@pytest.mark.parametrize("link", ["soft", "hard", "the graph only"])
def test_numbers_behind_links_are_read(tmp_path: Path, link: str) -> None:
    """As every download of huggingface_hub is: a snapshot of links into a folder of blobs, which have other names."""
    file = written(tmp_path / "plain" / "model.onnx", beside="model.onnx_data")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for number, name in enumerate(("model.onnx", "model.onnx_data")):
        blob, place = tmp_path / "blobs" / str(number), tmp_path / "snapshot" / name
        shutil.copy(file.with_name(name), blob)
        if link == "hard":
            place.hardlink_to(blob)
        elif link == "soft" or name == "model.onnx":
            place.symlink_to(Path("../blobs") / str(number))
        else:
            shutil.copy(blob, place)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert np.array_equal(reference(tmp_path / "snapshot" / "model.onnx", images), reference(file, images))
    assert ids(str(tmp_path / "snapshot" / "model.onnx")) == ids(str(file))


@pytest.mark.parametrize("place", ["../numbers", "none"])
def test_numbers_elsewhere_are_refused(tmp_path: Path, place: str) -> None:
    file = written(tmp_path / "net" / "model.onnx", beside="numbers")
    shutil.copy(tmp_path / "net" / "numbers", tmp_path / "numbers")
    model = onnx.load(file, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = place
    file.write_bytes(model.SerializeToString())
    with pytest.raises(UnknownName, match=rf"the values of 'head' are in '{place}', which is not beside it"):
        find(str(file))


def test_what_numbers_a_file_holds(tmp_path: Path) -> None:
    """So that a file measured in another precision is told which to ask for."""
    plain = written(tmp_path / "plain.onnx")
    assert stored_as(plain) == "fp32"
    model = onnx.load(plain)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 10), np.float16), "head"))
    onnx.save(model, tmp_path / "half.onnx")
    assert stored_as(tmp_path / "half.onnx") == "fp16"
    for node, name in (("QuantizeLinear", "int8-static"), ("DynamicQuantizeLinear", "int8-dynamic"), ("DequantizeLinear", "w8")):
        model.graph.node[0].op_type = node
        onnx.save(model, tmp_path / "integers.onnx")
        assert stored_as(tmp_path / "integers.onnx") == name


def ended(server: Connection, settings: Settings, file: Path, precision: str, batch: int) -> tuple[str, str | None, str]:
    """Outcome, axis and reason of a cell that has to end early."""
    matrix.learn(str(file), find(f"{file}+data=cifar10"))
    probe = CellProbe(server, Cell(f"{file}+data=cifar10", "dense", "onnxruntime", precision, batch, 8, "cpu"), settings)
    with pytest.raises(CellEnded) as caught:
        probe.agreement()
    probe.close()
    return caught.value.outcome, caught.value.axis, caught.value.reason


def test_a_batch_that_is_closed_inside_is_refused_by_name(server: Connection, settings: Settings, tmp_path: Path) -> None:
    """A file that says any batch and reshapes to one row; with one picture it runs.

    Of numbers in another precision the name is told.
    """
    model = onnx.load(written(tmp_path / "net.onnx"))
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["mean", "shape"], ["flat"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3], np.int64), "shape"))
    file = tmp_path / "one.onnx"
    onnx.save(model, file)
    probe = CellProbe(server, Cell(f"{file}+data=cifar10", "dense", "onnxruntime", "fp32", 1, 8, "cpu"), settings)
    assert probe.agreement().same_function
    probe.close()
    outcome, axis, reason = ended(server, settings, file, "fp32", 2)
    assert (outcome, axis) == ("unsupported", "batch")
    assert reason.startswith("building: one.onnx says that it takes any batch, and runs with 1 only, got 2; export it for others")
    outcome, axis, reason = ended(server, settings, written(tmp_path / "plain.onnx"), "int8-static", 1)
    assert (outcome, axis) == ("unsupported", "runtime")
    assert reason.endswith("The file's numbers are fp32: --precision fp32")

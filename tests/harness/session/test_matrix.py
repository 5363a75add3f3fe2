"""From a matrix file and options to cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.harness import messages
from plumbline.harness.cell import AXES, Cell
from plumbline.harness.machine import cuda_device
from plumbline.harness.session import matrix, places
from plumbline.harness.session.matrix import MatrixError, counted, expand, impossible, load
from plumbline.harness.session.session import REPOSITORY
from plumbline.harness.target import HERE
from tests.records import replace

ALL_ARITHMETIC = frozenset({"avx512_bf16", "avx512_fp16"})


def has(monkeypatch: pytest.MonkeyPatch, flags: frozenset[str]) -> None:
    here = places.find(HERE)
    monkeypatch.setattr(here, "capabilities", replace(here.capabilities, cpu_flags=sorted(flags)))


@pytest.fixture(autouse=True)
def nothing_is_emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is left out on a processor without some arithmetic has a test of its own."""
    has(monkeypatch, ALL_ARITHMETIC)
    matrix._too_slow.cache_clear()
    yield
    matrix._too_slow.cache_clear()


TEXT = """
[tier.one]
sampling_s = 0.5
accuracy_images = "all"

[[tier.one.cells]]
model = ["mlp", "resnet20"]
precision = ["fp32", "bf16"]
batch = [8, 1]
target = ["cpu"]

[[tier.one.cells]]
model = ["mixer_s16"]
image_size = [32, 224]
target = ["cpu"]

[[tier.one.cells]]
model = ["mlp"]
precision = ["fp16"]
target = ["cpu"]
"""


def tier(tmp_path: Path, text: str = TEXT) -> matrix.Tier:
    path = tmp_path / "matrix.toml"
    path.write_text(text)
    return load(path)["one"]


def ids(tmp_path: Path, **options: list[Any]) -> list[str]:
    return [cell.id for cell in expand(tier(tmp_path), options)]


def test_a_block_is_a_cross_product_and_fills_in_what_is_usual(tmp_path: Path) -> None:
    cells = expand(tier(tmp_path), {})
    assert len(cells) == 2 * 2 * 2 + 2 + 1
    assert cells[0] == Cell("mlp", "dense", "eager", "fp32", 8, 8, "cpu")
    assert [cell.image_size for cell in cells if cell.model == "mixer_s16"] == [32, 224]


def test_settings_come_with_the_tier(tmp_path: Path) -> None:
    found = tier(tmp_path)
    assert found.settings == {"sampling_s": 0.5, "accuracy_images": None}
    assert not found.may_not_fit


def test_an_option_selects_from_the_tier(tmp_path: Path) -> None:
    """fp16 is there for one small model only, and asking for fp16 does not add it to the others."""
    assert ids(tmp_path, precision=["fp16"]) == ["mlp-dense-eager-fp16-b1-8px-cpu"]
    assert ids(tmp_path, model=["resnet20"], batch=[1]) == [
        "resnet20-dense-eager-fp32-b1-32px-cpu",
        "resnet20-dense-eager-bf16-b1-32px-cpu",
    ]


def test_an_option_adds_what_the_tier_does_not_have(tmp_path: Path) -> None:
    assert ids(tmp_path, model=["resnet20"], batch=[4], precision=["fp16"]) == ["resnet20-dense-eager-fp16-b4-32px-cpu"]
    added = expand(tier(tmp_path), {"model": ["resnet50"]})
    assert {(cell.model, cell.image_size) for cell in added} == {("resnet50", 224)}


MORE = """
[tier.one.others]
batch = [3, 4]

[[tier.one.counted]]
model = ["resnet50", "mlp"]
image_size = [64, 8]
"""


def test_a_model_that_the_tier_does_not_have_is_measured_as_its_others_say(tmp_path: Path) -> None:
    found = expand(tier(tmp_path, TEXT + MORE), {"model": ["resnet18", "resnet20"], "precision": ["fp32"]})
    assert [cell.batch for cell in found if cell.model == "resnet18"] == [3, 4]
    assert [cell.batch for cell in found if cell.model == "resnet20"] == [8, 1]


def test_what_is_counted_only_is_no_cell_unless_it_is_named(tmp_path: Path) -> None:
    one = tier(tmp_path, TEXT + MORE)
    assert "resnet50" not in {cell.model for cell in expand(one, {})}
    only = [(cell.model, cell.image_size) for cell in counted(one, {})]
    assert only == [("resnet50", 64), ("resnet50", 8), ("mlp", 64)]  # mlp at 8 pixels is measured
    assert [cell.model for cell in counted(one, {"image_size": [64]})] == ["resnet50"]  # which makes mlp a cell at 64, too
    assert counted(one, {"precision": ["bf16"]}) == []
    assert counted(one, {"model": ["resnet50"]}) == []
    assert {cell.model for cell in expand(one, {"model": ["resnet50"]})} == {"resnet50"}


def test_an_image_size_goes_to_the_cells_that_have_it(tmp_path: Path) -> None:
    assert ids(tmp_path, image_size=[224]) == ["mixer_s16-dense-eager-fp32-b1-224px-cpu"]
    at_32 = {cell.model for cell in expand(tier(tmp_path), {"image_size": [32]})}
    assert at_32 == {"resnet20", "mixer_s16"}  # the usual size of a model counts as the tier's


def test_a_new_image_size_goes_to_the_models_that_take_it(tmp_path: Path) -> None:
    assert {cell.model for cell in expand(tier(tmp_path), {"image_size": [50]})} == {"mlp"}


def test_a_model_that_was_named_is_not_left_out_for_its_image_size(tmp_path: Path) -> None:
    cells = expand(tier(tmp_path), {"model": ["mlp", "mixer_s16"], "image_size": [50]})
    assert {cell.model for cell in cells} == {"mlp", "mixer_s16"}
    assert {cell.model for cell in cells if impossible(cell) is not None} == {"mixer_s16"}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["precision", "batch", "model"]),
        st.just(None),
    ).flatmap(
        lambda chosen: st.fixed_dictionaries(
            {
                axis: st.lists(
                    {
                        "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
                        "batch": st.integers(1, 9),
                        "model": st.sampled_from(["mlp", "resnet20", "resnet50", "mlp+depth=3"]),
                    }[axis],
                    min_size=1,
                    max_size=3,
                    unique=True,
                )
                for axis in chosen
            }
        )
    )
)
def test_every_named_value_is_there_and_nothing_else(options: dict[str, list[Any]]) -> None:
    """Whatever is named on an axis appears, alone; no cell comes twice."""
    path = REPOSITORY / "benchmarks" / "matrix.toml"
    cells = expand(load(path)["default"], options)
    assert cells
    assert len(cells) == len({cell.id for cell in cells})
    for axis, values in options.items():
        found = {getattr(cell, axis) for cell in cells}
        assert found <= set(values)
        if len(options) == 1:
            assert found == set(values)


def test_the_tiers_of_the_project_can_all_run() -> None:
    for found in load(REPOSITORY / "benchmarks" / "matrix.toml").values():
        cells = expand(found, {"target": ["cpu"]})
        assert cells
        reasons = [reason for cell in cells if (reason := impossible(cell)) is not None]
        assert [reason for reason in reasons if "not installed" not in reason.reason] == []


def test_the_grid_of_the_studies_is_there() -> None:
    cells = expand(load(REPOSITORY / "benchmarks" / "matrix.toml")["seeds"], {"target": ["cpu"]})
    assert {cell.batch for cell in cells} == {1, 8, 16, 32, 64, 128}
    assert {cell.image_size for cell in cells} >= {224, 192, 160, 112, 32}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("precision = [\"fp32\"", "precisoin = [\"fp32\"", r"line 8, tier.one.cells\[0\].precisoin: unknown key; known: model, "),
        ("model = [\"mixer_s16\"]", "model = [\"mixer_s61\"]", r"line 13, .*model: no model 'mixer_s61' .did you mean mixer_s16"),
        ("sampling_s = 0.5", "sampling = 0.5", r"line 3, tier.one.sampling: unknown key; known: cells, "),
        ("sampling_s = 0.5", "sampling_s = \"long\"", r"line 3, tier.one.sampling_s: expected .*, got 'long'"),
        ("batch = [8, 1]", "batch = [8, 0]", r"line 9, tier.one.cells\[0\].batch: expected a whole number from 1, got 0"),
        ("batch = [8, 1]", "batch = 8", r"line 9, tier.one.cells\[0\].batch: expected a list of values, got 8"),
        ("\"fp32\", \"bf16\"", "\"fp32\", \"bf61\"", r"line 8, .*precision: no precision 'bf61'; known: fp32, bf16, fp16"),
        ("accuracy_images = \"all\"", "accuracy_images = \"some\"", r"line 4, .*'all', got 'some'"),
        ("[tier.one]", "[tire.one]", r"line 2, tire: unknown key"),
        ("model = [\"mixer_s16\"]\n", "", r"line 12, tier.one.cells\[1\]: a block of cells needs a model"),
        ("[tier.one]", "[tier.one", r"line 2"),
        ("batch = [8, 1]", "batch = []", r"line 9, .*batch: expected a list of values, got \[\]"),
        ("sampling_s = 0.5", "sampling_s = -1", r"line 3, tier.one.sampling_s: expected more than 0, got -1"),
        ("sampling_s = 0.5", "min_samples = 0", r"line 3, tier.one.min_samples: expected more than 0, got 0"),
        (TEXT, "tier = 3", r"has no tiers; expected at least one \[tier.NAME\]"),
        (TEXT, "[tier]\none = 3", r"line 2, tier.one: expected a table \[tier.one\], got 3"),
        (TEXT, "[tier.one]\ncells = [1]", r"line 2, tier.one.cells: expected \[\[tier.one.cells\]\] tables, got \[1\]"),
        (TEXT, "[tier.one]\nsampling_s = 1", r"line 1, tier.one: has no cells"),
        ("sampling_s = 0.5", "counted = [{}]", r"line 3, tier.one.counted.*: a block of cells needs a model"),
        ("sampling_s = 0.5", "others = {model = [\"mlp\"]}", r"line 3, tier.one.others: .* names none"),
        ("sampling_s = 0.5", "others = {batch = [0]}", r"tier.one.others.batch: expected a whole number from 1, got 0"),
    ],
)  # fmt: skip
def test_a_typo_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(MatrixError, match=f"matrix.toml.*{says}"):
        tier(tmp_path, TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("changes", "outcome", "axis", "says"),
    [
        ({"model": "vit_cifar+patch=16", "image_size": 12}, "unsupported", "model", "patch of 16 pixels does not fit"),
        ({"image_size": 100}, "unsupported", "image_size", "mixer_s16 takes images of 32, 224 pixels, got 100"),
        ({"model": "resnet50", "image_size": 31}, "unsupported", "image_size", "32 to 1024 pixels, got 31"),
        ({"model": "vit_tiny", "image_size": 225}, "unsupported", "image_size", "16 to 1024 in steps of 16 pixels, got 225"),
    ],
)
def test_an_impossible_cell_has_its_reason(changes: dict[str, Any], outcome: str, axis: str, says: str) -> None:
    usual = {"model": "mixer_s16", "variant": "dense", "runtime": "eager", "precision": "fp32", "batch": 1, "image_size": 32}
    found = impossible(Cell(**{**usual, "target": "cpu", **changes}))
    assert found is not None
    assert (found.outcome, found.axis) == (outcome, axis)
    assert says in found.reason


@pytest.mark.skipif(cuda_device() is None, reason="this machine may have a CUDA device")
def test_cuda_is_unavailable_where_there_is_no_driver() -> None:
    found = impossible(Cell("mlp", "dense", "eager", "fp32", 1, 8, "cuda"))
    assert found is not None
    assert (found.outcome, found.axis) == ("unavailable", "target")


@settings(deadline=None)
@given(
    st.builds(
        Cell,
        st.sampled_from(["mlp", "mlp+depth=3"]),
        st.just("dense"),
        st.just("eager"),
        st.sampled_from(["fp32", "bf16"]),
        st.integers(1, 10**6),
        st.integers(1, 10**4),
        st.sampled_from(["cpu", "cuda"]),
    )
)
def test_a_cell_survives_json_and_has_a_plain_id(cell: Cell) -> None:
    assert messages.decode(messages.encode(cell), Cell) == cell
    assert set(messages.plain(cell)) == {*AXES}
    assert not set(cell.id) & set(" []/:'\"*?&;|<>()$")


TIERS = load(REPOSITORY / "benchmarks" / "matrix.toml")
SOME: dict[str, list[Any]] = {
    "model": ["mlp", "mlp+depth=3", "small_cnn", "mobilenetv1_025", "squeezenet1_1", "mixer_s16", "resnet32"],
    "variant": ["dense", "filter50", "prune95+sparse"],
    "runtime": ["eager", "eager+layout=contiguous", "onnxruntime", "onnxruntime+graph=off", "compiled", "openvino"],
    "precision": ["fp32", "bf16", "int8-static", "int8-dynamic", "fp16", "tf32"],
    "batch": [1, 8, 3],
    "image_size": [8, 32, 224, 225],
    "target": ["cpu", "cuda"],
}


def any_options() -> st.SearchStrategy[dict[str, list[Any]]]:
    values = {axis: st.lists(st.sampled_from(some), min_size=1, max_size=3, unique=True) for axis, some in SOME.items()}
    return st.fixed_dictionaries({}, optional=values)


@settings(max_examples=25)
@given(st.sampled_from(["smoke", "default"]), any_options())
def test_every_named_combination_is_measured_or_has_its_reason(name: str, options: dict[str, list[Any]]) -> None:
    """Whatever options name together is a cell, or is impossible; what is no cell for that has all its values in others."""
    cells, out = expand(TIERS[name], options), matrix.left_out(TIERS[name], options)
    named = matrix.canonical(options)
    axes = list(named)
    assert all(impossible(cell) == reason for cell, reason in out.items())
    for values in itertools.product(*named.values()):
        assert any(cell.values(axes) == values for cell in (*cells, *out)), values
    wanting = matrix.unmeasured(cells, options)
    for axis, value in [(name, value) for name, values in named.items() for value in values]:
        of = [cell for cell in cells if getattr(cell, axis) == value]
        assert of, (axis, value)
        assert ((axis, value) in wanting) == all(impossible(cell) is not None for cell in of)


def test_a_combination_that_only_one_model_has_is_measured_for_each_that_was_named() -> None:
    """The smoke tier has small_cnn in int8 by ONNX Runtime, squeezenet1_1 in eager only, and mobilenetv1_025 not at all."""
    options: dict[str, list[Any]] = {
        "model": ["small_cnn", "mobilenetv1_025", "squeezenet1_1"],
        "runtime": ["onnxruntime"],
        "precision": ["int8-static"],
    }
    assert [cell.id for cell in expand(TIERS["smoke"], options)] == [
        "small_cnn-dense-onnxruntime-int8-static-b1-8px-cpu",
        "mobilenetv1_025-dense-onnxruntime-int8-static-b1-128px-cpu",
        "squeezenet1_1-dense-onnxruntime-int8-static-b1-224px-cpu",
    ]


def test_what_cannot_be_is_left_out_with_its_reason_if_all_of_it_is_measured_elsewhere(tmp_path: Path) -> None:
    one = tier(tmp_path)
    options: dict[str, list[Any]] = {
        "model": ["mlp"],
        "runtime": ["eager", "onnxruntime"],
        "precision": ["fp32", "bf16"],
        "batch": [1],
    }
    assert [(cell.runtime, cell.precision) for cell in expand(one, options)] == [
        ("eager", "fp32"), ("eager", "bf16"), ("onnxruntime", "fp32"),
    ]  # fmt: skip
    ((cell, reason),) = matrix.left_out(one, options).items()
    assert (cell.runtime, cell.precision) == ("onnxruntime", "bf16")
    assert "onnxruntime runs fp32" in reason.reason
    alone: dict[str, list[Any]] = {
        **options,
        "runtime": ["onnxruntime"],
        "precision": ["fp32", "bf16"],
    }  # now nothing else is in bf16
    assert [cell.precision for cell in expand(one, alone)] == ["fp32", "bf16"]
    assert matrix.left_out(one, alone) == {}
    assert matrix.unmeasured(expand(one, alone), alone) == {("precision", "bf16")}


def test_what_the_first_choice_cannot_do_is_looked_for_in_the_whole_tier() -> None:
    """The default tier has filter50 for the MLP at 8 pixels only, which takes no 256: the models that do are taken."""
    cells = expand(TIERS["default"], {"variant": ["filter50"], "image_size": [256], "target": ["cpu"]})
    assert {cell.variant for cell in cells} == {"filter50"}
    assert all(impossible(cell) is None for cell in cells)
    assert "resnet50" in {cell.model for cell in cells}


def test_a_value_by_another_name_is_the_same_value() -> None:
    options: dict[str, list[Any]] = {"model": ["mlp+depth=2"], "runtime": ["eager+layout=contiguous"], "batch": [1, 1]}
    assert matrix.canonical(options) == {"model": ["mlp"], "runtime": ["eager"], "batch": [1]}


def test_what_is_emulated_is_measured_for_small_nets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small is decided for the processor at hand; who names model and precision gets it all the same."""
    has(monkeypatch, frozenset({"avx2"}))
    matrix._too_slow.cache_clear()
    tier = TIERS["default"]
    cells, out = matrix.expand(tier, {}), matrix.emulated(tier, {})
    assert {"resnet50", "resnet18"} <= {cell.model for cell in out}
    assert {(cell.precision, cell.model) for cell in cells if cell.precision != "fp32"} >= {("bf16", "mlp"), ("fp16", "resnet8")}
    assert not set(cells) & set(out)
    assert any(cell.model == "resnet50" for cell in cells)  # in fp32
    named = {"model": ["resnet50"], "precision": ["bf16"]}
    assert {cell.batch for cell in matrix.expand(tier, named)} == {8, 1}
    assert matrix.emulated(tier, named) == []
    only: dict[str, list[Any]] = {"precision": ["bf16"], "image_size": [224]}  # small nets have no such pictures
    assert {cell.image_size for cell in matrix.expand(tier, only)} == {224}

    has(monkeypatch, ALL_ARITHMETIC)
    matrix._too_slow.cache_clear()
    assert matrix.emulated(tier, {}) == []
    assert set(matrix.expand(tier, {})) == {*cells, *out}


TIER = '[tier.one]\n[[tier.one.cells]]\nmodel = ["mlp"]  # größer\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_matrix_file_as_any_editor_saves_it(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "matrix.toml"
    file.write_bytes(TIER.encode(encoding))
    assert [cell.model for cell in matrix.expand(matrix.load(file)["one"], {})] == ["mlp"]


def test_a_matrix_file_that_is_no_text_is_refused_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "matrix.toml"
    file.write_bytes(TIER.encode("latin-1"))
    with pytest.raises(matrix.MatrixError, match=r"matrix\.toml, line 3: expected text in UTF-8"):
        matrix.load(file)

"""From a variant's name to a compressed net in a session: the grammar, training, and what the record says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from plumbline import UnknownName
from plumbline.harness.cell import Cell
from plumbline.harness.cli import main
from plumbline.harness.facts import Delivery, Promise
from plumbline.harness.machine import here
from plumbline.harness.messages import Compress
from plumbline.harness.outcomes import UNAVAILABLE, UNSUPPORTED, CellEnded
from plumbline.harness.record import Record
from plumbline.harness.session.client import CellProbe, Connection
from plumbline.harness.session.matrix import FILE, expand, load
from plumbline.harness.settings import Settings
from plumbline.harness.studies import compress, compression
from plumbline.harness.studies.compression import DEEP, SMALL, THIN, tables
from plumbline.harness.verdicts.limits import Limit, failed
from plumbline.harness.verdicts.realised import explained, shortfalls
from plumbline.harness.views.table import matrix
from plumbline.models import find as model
from plumbline.models.compression import stored, variants
from plumbline.models.compression.distillation import Distillation
from plumbline.models.compression.penalties import L1, Sensitivity, sensitivity
from plumbline.models.compression.unstructured import Gradual, polynomial, weights
from plumbline.models.compression.variants import TECHNIQUES, find
from tests.records import accuracy_of, cell_of, prepared_of, record_of, replace

# -- names -----------------------------------------------------------------------------------------------------


def technique() -> st.SearchStrategy[str]:
    def options(name: str) -> st.SearchStrategy[str]:
        known = TECHNIQUES[name]
        percent = st.one_of(st.decimals(0, 100, places=1), st.decimals(0, 100, places=5)).map(str)
        share = st.floats(0, 1).map(lambda value: f"+{known.amount}={value:.9f}")
        amount = st.just("") if known.amount is None else st.one_of(percent, share)
        chosen = [
            st.sampled_from(["", *(f"+{key}={value}" for value in known.choices.get(key, (str(usual), "3")))])
            for key, usual in known.options.items()
            if key != known.amount and not isinstance(usual, str) | (key not in known.choices and isinstance(usual, float))
        ]
        return st.tuples(amount, *chosen).map(lambda parts: name + "".join(parts))

    return st.sampled_from(sorted(TECHNIQUES)).flatmap(options)


@given(st.lists(technique(), min_size=1, max_size=4).map("+".join))
def test_a_name_means_itself_or_says_why_it_cannot_be(reference: str) -> None:
    refusal, variant = "", None
    try:
        variant = find(reference)
    except UnknownName as reason:
        refusal = str(reason)
    if variant is None:
        assert "cannot work behind it" in refusal or "nothing can stand before it" in refusal
        return
    assert find(variant.name) == variant
    assert [step.technique.name for step in find(variant.name).steps] == [step.technique.name for step in variant.steps]


def test_the_order_is_part_of_the_name_and_what_is_usual_is_not() -> None:
    assert find("prune50+svd25").name != find("svd25+prune50").name
    assert find("prune50+by=magnitude+scope=global").name == "prune50"
    assert find("prune+sparsity=0.5").name == "prune50"
    assert find("dense").steps == ()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("prun50", "did you mean prune"),
        ("prune", "expected a number behind 'prune'"),
        ("prune150", "expected 0 to 100 percent behind 'prune', got 150"),
        ("tune3", "'tune' takes no number"),
        ("prune50+by=luck", "expected magnitude, random, got 'luck'"),
        ("prune50+colour=red", "has no option 'colour'; known: sparsity, by, scope, layers, pattern"),
        ("share+bits=few", "expected int, got 'few'"),
        ("by=random+prune50", "stands before any technique"),
        ("dense+prune50", "no variant 'dense'"),
        ("prune+sparsity=1.5", "expected a share from 0 to 1, got '1.5'"),
        ("filter+share=nan", "expected a share from 0 to 1, got 'nan'"),
        ("sparse+prune90", "'sparse' leaves the zeros out, so 'prune' cannot work behind it; expected 'prune' before 'sparse'"),
        ("huffman+tune", "'huffman' is how the finished net is stored, so 'tune' cannot work behind it"),
        ("prune50+distill+teacher=mlp", "'distill' trains from the beginning, so nothing can stand before it"),
    ],
)
def test_a_wrong_name_is_refused_with_what_would_work(reference: str, words: str) -> None:
    with pytest.raises(UnknownName, match=words.replace("(", r"\(")):
        find(reference)


# -- what techniques add to training ---------------------------------------------------------------------------


def test_the_schedule_rises_from_none_to_all() -> None:
    shares = [polynomial(0.9, done / 100) for done in range(101)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[75] == shares[100] == pytest.approx(0.9)
    assert shares[25] == pytest.approx(0.9 * (1 - (2 / 3) ** 3))


def test_gradual_pruning_ends_at_its_sparsity_and_goes_on_after_an_interruption() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    first, second = Gradual(0.8), Gradual(0.8)
    first.begin(net, net)
    for step in range(1, 11):
        with torch.no_grad():
            for weight in weights(net).values():
                weight.add_(0.01 * torch.randn(weight.shape))
        first.stepped(net, step / 10)
        second.begin(net, net)
        second.restore(first.state())
        first, second = second, first
    zeros = sum(int((weight == 0).sum()) for weight in weights(net).values())
    assert zeros == round(0.8 * 900)


def test_the_penalty_is_the_sum_of_sizes_and_rounding_happens_in_place() -> None:
    net = nn.Linear(3, 2)
    held, addition = net.weight, L1(0.5, 1)
    before = torch.tensor(1.0)
    loss = addition.loss(before, net, torch.zeros(1, 3), torch.zeros(1, 2), torch.zeros(1), 0.0)
    assert torch.isclose(loss, before + 0.5 * net.weight.abs().sum())
    addition.stepped(net, 0.05)
    assert not torch.equal(net.weight, net.weight.round(decimals=1))
    addition.stepped(net, 0.1)
    assert net.weight is held  # the optimiser has this very tensor
    assert torch.equal(net.weight, net.weight.round(decimals=1))
    with pytest.raises(ValueError, match="expected a penalty and decimals of 0 or more, got -1"):
        L1(-1, 2)


def test_sensitivity_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    first, last, inputs = nn.Linear(5, 4), nn.Linear(4, 3), torch.randn(6, 5)
    found = sensitivity(nn.Sequential(first, nn.Tanh(), last), inputs)
    slope = 1 - torch.tanh(first(inputs)).square()  # dy_k / dp_i = w_ki (1 - tanh(p_i)^2)
    assert torch.allclose(found["0.weight"], (slope.unsqueeze(1) * last.weight).abs().mean(1).mean(0), atol=1e-6)
    assert torch.allclose(found["2.weight"], torch.full((3,), 1 / 3))


def test_insensitive_neurons_lose_weight_and_small_weights_go_in_the_end() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(5, 4), nn.Linear(4, 3)
    net = nn.Sequential(first, nn.ReLU(), last)
    with torch.no_grad():
        first.weight[0] = 1.0
        last.weight[:, 0] = 0.0  # nothing depends on the first neuron
    addition, inputs = Sensitivity(0.1, 0.05), torch.randn(6, 5)
    addition.begin(net, net)
    addition.loss(torch.tensor(0.0), net, inputs, net(inputs), torch.zeros(6), 0.0)
    addition.stepped(net, 0.5)
    assert torch.allclose(first.weight[0], torch.full((5,), 0.9))
    again = Sensitivity(0.1, 0.05)
    again.begin(net, net)
    again.restore(addition.state())
    again.stepped(net, 1.0)
    assert torch.allclose(first.weight[0], torch.full((5,), 0.81))
    assert all(not bool(((weight.abs() <= 0.05) & (weight != 0)).any()) for weight in weights(net).values())


def test_a_teacher_pulls_and_one_with_other_classes_is_refused() -> None:
    torch.manual_seed(0)
    teacher, student, inputs = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(2, 4)
    addition = Distillation(teacher, temperature=2.0, alpha=0.25)
    addition.begin(student, student)
    labels, hard = torch.tensor([0, 1]), torch.tensor(1.5)
    came = addition.loss(hard, student, inputs, student(inputs), labels, 0.0)
    p, q = (torch.softmax(net(inputs) / 2, 1) for net in (teacher, student))
    assert torch.isclose(came, 0.25 * 4 * (p * (p / q).log()).sum(1).mean() + 0.75 * hard)
    with pytest.raises(ValueError, match="the teacher scores 3 classes, the student 5"):
        addition.loss(hard, student, inputs, torch.zeros(2, 5), labels, 0.0)
    for temperature, alpha in ((0.0, 0.5), (1.0, 1.5)):
        with pytest.raises(ValueError, match="expected a temperature above 0 and an alpha from 0 to 1"):
            Distillation(teacher, temperature, alpha)


# -- in a session ----------------------------------------------------------------------------------------------


def cell(variant: str, name: str = "mlp", batch: int = 8, runtime: str = "eager", precision: str = "fp32") -> Cell:
    return Cell(name, variant, runtime, precision, batch, 8, "cpu")


QUICK = {"sampling_s": 0.05, "warmup_s": 0.05, "accuracy_images": 100}


@pytest.mark.parametrize(
    ("variant", "stored", "macs"),
    [
        ("prune90", 1.0, 1.0),
        ("prune90+sparse", 0.102, 1.0),
        ("svd50", 0.5, 0.5),
        ("filter50", 0.5, 0.5),
        ("share+huffman", 1.0, 1.0),
    ],
)
def test_a_variant_is_the_same_function_and_its_promise_is_counted(
    server: Connection, cache: Path, variant: str, stored: float, macs: float
) -> None:
    probe = CellProbe(server, cell(variant), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    counts, promise, agreement = probe.counts(), probe.promise(), probe.agreement()
    accuracy = probe.accuracy()
    probe.close()
    assert promise is not None
    assert promise.keeps_to(counts)
    assert probe.prepared().parameters == promise.parameters_stored
    assert promise.parameters_stored / promise.parameters_dense == pytest.approx(stored, abs=0.01)
    assert promise.macs / promise.macs_dense == pytest.approx(macs, abs=0.01)
    assert agreement.same_function, agreement.explanation
    assert accuracy.parent_top1 is not None and accuracy.floor is None


def test_a_sparse_cell_and_its_parent_take_turns(server: Connection, cache: Path) -> None:
    probe = CellProbe(server, cell("prune99+sparse", batch=32), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    probe.latency()
    delivery = probe.delivery()
    assert delivery is not None and delivery.unavailable is None
    assert delivery.speedup is not None and delivery.interval is not None
    assert delivery.interval[0] <= delivery.speedup <= delivery.interval[1]
    assert delivery.rounds >= 7
    assert delivery.reaches(delivery.interval[0]) and not delivery.reaches(delivery.interval[0] + 0.01)


def test_sparse_layers_of_a_net_with_several_inputs_are_chosen_too(server: Connection, settings: Settings) -> None:
    probe = CellProbe(server, Cell("tests.faulty:PAIR", "prune50+sparse", "eager", "fp32", 2, 8, "cpu"), settings)
    assert "sparse_layers" in probe.prepared().options
    assert probe.agreement().same_function
    probe.close()


def test_the_dense_net_promises_nothing(server: Connection, cache: Path) -> None:
    probe = CellProbe(server, cell("dense"), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    assert probe.promise() is None
    assert probe.delivery() is None
    probe.close()


@pytest.mark.parametrize(
    ("variant", "outcome", "words"),
    [
        ("filter99", UNSUPPORTED, "groups of channels that can be pruned allow"),
        ("svd100", UNSUPPORTED, "expected 0 to less than 1, got 1"),
        ("share+bits=9", UNSUPPORTED, "expected 1 to 8, got 9"),
        ("distill", UNAVAILABLE, "expected a teacher"),
        (
            "distill+teacher=resnet20",
            UNSUPPORTED,
            "expected a teacher for digits, whose classes mlp has, got resnet20, for cifar10",
        ),
        ("prune60+pattern=2:4", UNSUPPORTED, "half of the weights go"),
        ("prune50+pattern=2:4+sparse+format=2:4", UNSUPPORTED, "expected an NVIDIA GPU"),
        ("prune90+tune+epochs=500", UNAVAILABLE, r"plumbline train mlp --image-size 8 --variant prune90\+tune\+epochs=500"),
    ],
)
def test_what_cannot_be_made_says_why(server: Connection, cache: Path, variant: str, outcome: str, words: str) -> None:
    probe = CellProbe(server, cell(variant), Settings(cache=cache, **QUICK))  # type: ignore[arg-type]
    with pytest.raises(CellEnded, match=words) as ended:
        probe.prepared()
    assert ended.value.outcome == outcome


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "nonzero", "macs"),  # at most, as a share of the dense net's
    [
        ("prune90+tune", 0.102, 1.0), ("gradual90", 0.102, 1.0), ("l1", 0.9, 1.0), ("serene", 0.95, 1.0),
        ("distill+teacher=small_cnn", 1.0, 1.0), ("svd50+tune", 0.51, 0.5),
    ],
)  # fmt: skip
def test_a_variant_that_trains_does_so_on_demand_and_is_kept(
    server: Connection, cache: Path, variant: str, nonzero: float, macs: float
) -> None:
    settings = Settings(cache=cache, sampling_s=0.05, warmup_s=0.05, accuracy_images=None)
    probe = CellProbe(server, cell(variant, batch=64), settings)
    promise, accuracy = probe.promise(), probe.accuracy()
    probe.close()
    assert promise is not None and len(promise.trainings) == 1
    assert promise.parameters_nonzero <= nonzero * promise.parameters_dense
    assert promise.macs <= macs * promise.macs_dense
    assert accuracy.top1 is not None and accuracy.top1 > 0.9
    kept = list((cache / "training").glob(f"digits_mlp-8px-{find(variant).name}-*/weights.safetensors"))
    assert len(kept) == 1


def shown(promise: Promise, speedup: float | None, **options: int) -> Record:
    delivery = None if speedup is None else Delivery(speedup)
    return record_of(prepared=prepared_of(promise, options=options), delivery=delivery)


@pytest.mark.parametrize(
    ("effective", "realised", "words"),
    [
        (1000, 1.0, []), (1000, 0.9, ["slower"]), (750, 1.3, []), (750, 1.1, ["under-delivers"]), (500, 1.0, ["no faster"]),
        (500, 1.04, ["no faster"]), (500, 1.2, ["under-delivers"]), (500, 1.6, []), (970, 0.5, ["slower"]),
        (100, 4.0, ["under-delivers"]), (100, 6.0, []),
    ],
)  # fmt: skip
def test_less_than_half_of_the_theoretical_gain_is_flagged(effective: int, realised: float, words: list[str]) -> None:
    promise = Promise(100, 100, 95, 95, 1000, effective, effective, 400, 100, None)
    assert shortfalls(shown(promise, realised)) == words


def test_a_variant_whose_layers_are_all_dense_again_is_called_so() -> None:
    promise = Promise(100, 100, 5, 5, 1000, 1000, 50, 400, 20, None)
    for speedup in (0.9, 0.99, 1.1):
        found = shown(promise, speedup, sparse_layers=0)
        assert shortfalls(found) == ["dense again"]
        assert explained([found])[0].startswith("dense again: none of its sparse layers was faster")
    assert shortfalls(shown(promise, 1.1, sparse_layers=1)) == ["under-delivers"]


def test_a_shortfall_is_told_in_plain_words() -> None:
    promise = Promise(100, 100, 10, 100, 1000, 1000, 100, 400, 400, None)
    found = shown(promise, 1.0)
    assert shortfalls(found) == ["no faster", "no smaller"]
    assert [line.partition(":")[0] for line in explained([found, record_of()])] == ["no faster", "no smaller"]
    coded = shown(replace(promise, bytes=50), 9.0)
    assert (shortfalls(coded), explained([coded])) == ([], [])
    assert shortfalls(shown(promise, None)) == ["no smaller"]
    assert shortfalls(record_of()) == []


def record(variant: str, nonzero: int = 25, stages: dict[str, int] | None = None, top1: float = 0.97) -> Record:
    promise = Promise(100, 100, nonzero, 100, 1000, 1000, 250, 400, 400, stages, [{"epochs": 4, "seconds": 3.0}])
    return record_of(cell_of(variant=variant, batch=32), prepared=prepared_of(promise), accuracy=accuracy_of(top1, loss=0.01))


def test_the_tables_say_what_was_swept_and_what_each_stage_took() -> None:
    stages = {"dense": 40_000, "pruned": 8000, "shared": 3000, "coded": 1250}
    swept = [record("l1+decimals=1+penalty=0.01", 3), record("l1"), record("l1+penalty=0.01", 60, top1=0.5)]
    text = tables([*swept, record("prune90+huffman", stages=stages)])
    rows = [line.split() for line in text.splitlines()]
    assert ["mlp", "8", "4", "0.0001", "-", "75.0%,", "97.00%", "(-1.00)"] in rows
    assert ["mlp", "8", "4", "0.01", "97.0%,", "97.00%", "(-1.00)", "40.0%,", "50.00%", "(-1.00)"] in rows
    assert ["mlp", "prune90+huffman", "40", "8", "3", "1.25", "32.0x"] in rows
    assert "stage by stage" not in tables([record("prune90")])
    assert "revisions" not in text
    other = replace(record("share"), revision="f00dbabe")
    assert "- measured by 2 revisions of this project (5ca1ab1e, f00dbabe): rows may" in tables([*swept, other])


def test_the_matrix_has_a_table_of_its_own_for_what_is_compressed() -> None:
    dense = record_of(cell_of(batch=32), outcome="failed", reason="so")
    pruned = record_of(cell_of(variant="prune75", batch=32), outcome="failed", reason="so", prepared=record("prune75").prepared)
    whole, _, below = matrix([dense, pruned]).partition("compressed: theoretical gain, and the gain realised in turns with")
    assert "prune75" in whole and "4.00x" not in whole
    row = below.splitlines()[4].split()
    assert row[:8] == ["mlp", "prune75", "8", "eager", "fp32", "b32", "0.0001", "25.0%"]
    assert row[8:] == ["100.0%", "25.0%", "0.4", "1.0x", "4.00x", "no", "smaller", "3.0", "s"]
    assert "no smaller: its zeros take as much on disk" in below
    assert "compressed" not in matrix([dense])


@pytest.mark.parametrize(
    ("got", "most", "interval", "verdict"),
    [
        (4.5, False, None, "passed"), (4.4, False, None, "failed"), (4.5, True, None, "passed"), (4.6, True, None, "failed"),
        (None, True, None, "missing"), (4.6, True, (4.4, 4.8), "passed"), (4.6, True, (4.55, 4.8), "failed"),
        (4.4, False, (4.2, 4.6), "passed"), (4.4, False, (4.2, 4.45), "failed"),
    ],
)  # fmt: skip
def test_a_figure_passes_or_fails_its_limit(
    got: float | None, most: bool, interval: tuple[float, float] | None, verdict: str
) -> None:
    limit = Limit("faster", got, 4.5, "x", most, interval)
    assert limit.verdict == verdict
    assert failed([limit]) == (["faster"] if verdict == "failed" else [])


def test_the_tier_says_what_its_cells_were_to_reach() -> None:
    def scores(which: tuple[str, int, str], top1: float | None, loss: float | None, **promised: Any) -> list[str]:
        name, size, variant = which
        told = record(variant).promise
        assert told is not None
        found = record_of(
            cell_of(name, image_size=size, variant=variant),
            prepared=prepared_of(replace(told, **promised)),
            accuracy=None if top1 is None else accuracy_of(top1, loss=loss),
        )
        lines = tables([found]).splitlines()
        return [line.split("  ")[-1].strip() for line in lines[lines.index("Limits") + 4 :]]

    assert scores(DEEP, 0.9, 0.003, bytes_dense=3000, bytes=100) == ["passed", "passed"]
    assert scores(DEEP, 0.9, 0.0031, bytes_dense=3000, bytes=101) == ["failed", "failed"]
    assert scores(DEEP, None, None, bytes=None) == ["missing", "missing"]
    assert scores(THIN, 0.9, 0.01) == ["passed"]
    assert scores(THIN, 0.9, 0.011) == ["failed"]
    assert scores(SMALL, 0.5386, 0.0, bytes=94_000_000) == ["passed", "failed"]
    assert "Limits" not in tables([record(THIN[2])])
    cells = {(cell.model, cell.image_size, cell.variant) for cell in expand(load(FILE)["compression"], {})}
    assert {DEEP, THIN, SMALL} <= cells


def test_goals_are_told_also_when_a_later_part_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("so")

    parts = {"one": lambda *_: ("first", [Limit("figure", 1, 2, "x")]), "two": fails, "three": lambda *_: ("third", [])}
    monkeypatch.setattr(compression, "PARTS", parts)
    with pytest.raises(ValueError, match="so"):
        compression.report([], None, 0.1, "simple", lambda text: None)
    said = capsys.readouterr().out
    assert "first" in said and "third" not in said
    assert said.split()[-6:] == ["figure", "1x", "at", "least", "2x", "failed"]
    told: list[str] = []
    compression.report(["three"], None, 0.1, "simple", told.append)
    assert capsys.readouterr().out == f"{here()}\n\nthird\n\n"
    assert told == ["three", ""]


def test_a_student_is_trained_by_the_whole_recipe_and_a_pruned_net_for_a_fifth() -> None:
    asked = [
        find(name).recipe(model("mlp"), 8) for name in ("dense", "distill+teacher=mlp", "distill+teacher=mlp+epochs=3", "tune")
    ]
    assert [recipe.epochs for recipe in asked] == [20, 20, 3, 4]
    assert asked[0].learning_rate == asked[1].learning_rate == asked[3].learning_rate / 0.3


@pytest.mark.usefixtures("place")
def test_a_compressed_net_is_written_and_built_again(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, settings = tmp_path / "new" / "mlp.plumbline", Settings(cache=cache)

    def compressed(name: str, variant: str, size: int) -> int:
        request = Compress(cell_of(name, variant=variant, image_size=size), settings, str(out))
        return compress.command(request, print)

    assert compressed("mlp", "prune95+share+bits=4+huffman", 8) == 0
    net = stored.load(model("mlp"), 8, out)
    said = capsys.readouterr().out
    assert f"{sum(int(parameter.count_nonzero()) for parameter in net.parameters()):,} of 2,176,010 parameters left" in said
    assert f"coded: {out.stat().st_size:>13,} bytes" in said
    with pytest.raises(CellEnded, match=r"filter99: .*groups of channels that can be pruned allow"):
        compressed("mlp", "filter99", 8)
    with pytest.raises(CellEnded, match="expected trained weights of squeezenet1_1, got none"):
        compressed("squeezenet1_1", "prune50", 224)


def test_a_model_without_a_recipe_cannot_be_tuned() -> None:
    with pytest.raises(UnknownName, match="has no recipe"):
        variants.find("prune50+tune").recipe(model("squeezenet1_1"), 224)


@pytest.mark.parametrize(("came", "code"), [(1.0, 1), (2.0, 0), (None, 0)])
def test_a_missed_limit_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], came: float | None, code: int
) -> None:
    monkeypatch.setattr(compression, "PARTS", {"one": lambda *_: ("first", [Limit("figure", came, 2, "x")])})
    monkeypatch.setattr(sys, "argv", ["plumbline", "compression", "one"])
    assert main() == code
    assert ("beyond the limit: figure" in capsys.readouterr().err) is bool(code)

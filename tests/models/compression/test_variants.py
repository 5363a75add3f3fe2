"""Variants: the grammar of their names, and what techniques add to training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from plumbline import UnknownName
from plumbline.models import find as model
from plumbline.models.compression import variants
from plumbline.models.compression.distillation import Distillation
from plumbline.models.compression.penalties import L1, Sensitivity, sensitivity
from plumbline.models.compression.unstructured import Gradual, polynomial, weights
from plumbline.models.compression.variants import TECHNIQUES, find

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


def test_a_student_is_trained_by_the_whole_recipe_and_a_pruned_net_for_a_fifth() -> None:
    asked = [
        find(name).recipe(model("mlp"), 8) for name in ("dense", "distill+teacher=mlp", "distill+teacher=mlp+epochs=3", "tune")
    ]
    assert [recipe.epochs for recipe in asked] == [20, 20, 3, 4]
    assert asked[0].learning_rate == asked[1].learning_rate == asked[3].learning_rate / 0.3


def test_a_model_without_a_recipe_cannot_be_tuned() -> None:
    with pytest.raises(UnknownName, match="has no recipe"):
        variants.find("prune50+tune").recipe(model("squeezenet1_1"), 224)

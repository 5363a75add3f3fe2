"""Techniques of compression: functions from a net to a new one, each with its promise checked."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from plumbline import Unfit
from plumbline.models import find
from plumbline.models.compression import coding, lowrank, sharing, sparse, stored, structured, unstructured, variants
from plumbline.models.compression.unstructured import weights
from plumbline.models.counting.counts import torch_layers
from plumbline.models.training.checkpoint import BadCheckpoint
from plumbline.models.weights.seeding import seed_weights

sparsities = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24 * 36, 32), nn.ReLU(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


def layers_of(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def picture(count: int = 1, channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def all_of(net: nn.Module) -> list[Tensor]:
    return [weight.detach() for weight in weights(net).values()]


def all_weights(net: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in weights(net).values()])


def macs(net: nn.Module, example: Tensor) -> int:
    return sum(layer.macs for layer in torch_layers(net, (example,)).values())


TECHNIQUES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "prune": lambda net: unstructured.prune(net, 0.7),
    "prune, random": lambda net: unstructured.prune(net, 0.7, by="random"),
    "prune, layer by layer": lambda net: unstructured.prune(net, 0.7, scope="layer"),
    "filter": lambda net: structured.prune(net, 0.4, picture()),
    "filter, by Taylor": lambda net: structured.prune(net, 0.4, picture(), by="taylor", batch=(picture(4), torch.arange(4))),
    "svd": lambda net: lowrank.factorise(net, 0.5),
    "share": lambda net: sharing.share(net, 3),
    "sparse": sparse.sparsified,
}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_the_net_that_goes_in_stays_as_it_is_and_twice_gives_the_same(name: str) -> None:
    net, inputs = small_net(), picture(3)
    before, shape = deepcopy(net.state_dict()), str(net)
    with torch.no_grad():
        first, second = TECHNIQUES[name](net)(inputs), TECHNIQUES[name](net)(inputs)
    assert str(net) == shape
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert first.shape == (3, 10)
    assert torch.equal(first, second)


# -- single weights --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    sparsity=sparsities,
    by=st.sampled_from(["magnitude", "random"]),
    scope=st.sampled_from(["global", "layer"]),
    seed=st.integers(0, 9),
)
def test_exactly_the_share_is_zero(sparsity: float, by: str, scope: str, seed: int) -> None:
    net = small_net(seed)
    pruned = unstructured.prune(net, sparsity, by, scope, seed=seed)
    groups = [all_weights(pruned)] if scope == "global" else list(weights(pruned).values())
    assert [int((group == 0).sum()) for group in groups] == [round(sparsity * group.numel()) for group in groups]
    kept = all_weights(pruned) != 0
    assert torch.equal(all_weights(pruned)[kept], all_weights(net)[kept])


@settings(deadline=None)
@given(sparsity=sparsities, coarse=st.booleans(), seed=st.integers(0, 9))
def test_no_weight_that_went_was_larger_than_one_that_stayed(sparsity: float, coarse: bool, seed: int) -> None:
    net = small_net(seed)
    if coarse:  # many are equal
        with torch.no_grad():
            for weight in weights(net).values():
                weight.copy_((weight * 20).round() / 20)
    before, after = all_weights(net).abs(), all_weights(unstructured.prune(net, sparsity))
    went, stayed = before[after == 0], before[after != 0]
    assert not len(went) or not len(stayed) or went.max() <= stayed.min()


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_a_sparsity_that_is_no_share_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match="expected a share from 0 to 1, got"):
        unstructured.prune(small_net(), sparsity)


@given(rows=st.integers(1, 6), fours=st.integers(1, 6), seed=st.integers(0, 99), coarse=st.booleans())
def test_two_of_four_in_a_row_stay_and_they_are_the_largest(rows: int, fours: int, seed: int, coarse: bool) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4 * fours, rows), nn.Conv2d(4, 4, 1), nn.Linear(5, 3))
    with torch.no_grad():
        if coarse:  # equal ones, and zeros
            all_of(net)[0].copy_(all_of(net)[0].mul(4).round())
    pruned = unstructured.prune(net, 0.5, pattern="2:4")
    before, after = (all_of(of)[0].view(-1, 4) for of in (net, pruned))
    assert int((after != 0).sum(1).max()) <= 2
    assert torch.equal(after.abs().sum(1), before.abs().sort(dim=1).values[:, 2:].sum(1))
    assert all(torch.equal(one, other) for one, other in zip(all_of(net)[1:], all_of(pruned)[1:]))  # no fours in a row there


def test_two_of_four_are_half_and_the_smaller_ones() -> None:
    for sparsity, by in ((0.6, "magnitude"), (0.5, "random")):
        with pytest.raises(ValueError, match="half of the weights go, the smaller ones"):
            unstructured.prune(small_net(), sparsity, by, pattern="2:4")


def test_other_random_weights_by_another_seed() -> None:
    first, second = (unstructured.prune(small_net(), 0.5, by="random", seed=seed) for seed in (0, 1))
    assert not torch.equal(all_weights(first), all_weights(second))


# -- channels --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(share=st.floats(0.01, 0.7), unit=st.sampled_from([1, 4, 8]))
def test_the_macs_that_go_are_the_share_to_one_unit(share: float, unit: int) -> None:
    net, example = small_net(), picture()
    dense, came = macs(net, example), macs(structured.prune(net, share, example, unit=unit), example)
    each = [layer.macs for layer in torch_layers(net, (example,)).values() if layer.macs]
    pairs = zip((16, 24, 32), each, each[1:])  # a channel is an output of one layer and an input of the next
    largest = max((out + into) / width * max(1, min(unit, width // 4)) for width, out, into in pairs)
    assert (1 - share) * dense - largest <= came <= (1 - share) * dense


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_pruned_net_is_the_masked_original(share: float) -> None:
    net, example = small_net(), picture(2)
    pruned = structured.prune(net, share, example[:1])
    masked = deepcopy(net)
    with torch.no_grad():
        twin = layers_of(masked)
        biases = [[layer.bias.tolist() for layer in layers_of(of) if layer.bias is not None] for of in (net, pruned)]
        for number, each in enumerate((1, 36, 1)):
            kept = set(biases[1][number])
            for index, value in enumerate(biases[0][number]):
                if value not in kept:
                    twin[number + 1].weight[:, index * each : (index + 1) * each] = 0
        assert sum(map(len, biases[1])) < sum(map(len, biases[0]))
        assert torch.allclose(pruned(example), masked(example), atol=1e-5)


def test_more_than_the_groups_allow_is_refused_with_what_they_do() -> None:
    with pytest.raises(structured.TooMuch, match=r"99\.0% of the MACs is to go; the 3 groups of channels .* allow 9\d\.\d%"):
        structured.prune(small_net(), 0.99, picture())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "share"),
    [
        ("resnet20", 32, 0.5),
        ("vit_tiny", 48, 0.5),
        ("mixer_s16", 32, 0.5),
        ("mobilenet_v3_large", 64, 0.75),
        ("resnet50", 32, 0.051),
    ],
)
def test_every_family_is_pruned_to_the_share_and_stays_the_same_function(model: str, size: int, share: float) -> None:
    torch.manual_seed(0)
    net, example = find(model).instantiate(size).eval(), picture(2, 3, size)
    seed_weights(net, picture(8, 3, size))
    came = 1 - macs(structured.prune(net, share, example[:1], unit=8), example[:1]) / macs(net, example[:1])
    assert share <= came <= share + 0.04  # eight channels of a ViT's 192
    silent = with_silent_channels(net, example[:1])
    pruned = structured.prune(silent, 0.05, example[:1])
    with torch.no_grad():
        wanted = silent(example)
        assert not torch.allclose(net(example), wanted, rtol=1e-3)
        assert torch.allclose(pruned(example), wanted, rtol=1e-3, atol=1e-4 * float(wanted.std()))


def without(graph: Any, group: structured.Group, channels: list[int]) -> Any:
    """What each layer of a group loses with those channels."""
    linear = isinstance(group.root, nn.Linear)
    removal = torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels
    return graph.get_pruning_group(group.root, removal, channels)


def with_silent_channels(net: nn.Module, example: Tensor) -> nn.Module:
    """A copy in which a third of the channels are zero, wherever they go in and come out: the first that pruning takes."""
    silent = deepcopy(net)
    graph, found = structured.groups(silent, example)
    with torch.no_grad():
        for group in found:
            chosen = sorted(channel for _, unit in group.units[::3] for channel in unit)
            affected = without(graph, group, chosen)
            if any(isinstance(dependency.target.module, nn.LayerNorm) for dependency, _ in affected):
                continue  # which subtracts the mean of the channels that there are
            for dependency, channels in affected:
                module, inwards = dependency.target.module, "in_channels" in dependency.handler.__name__
                for parameter in module.parameters(recurse=False) if isinstance(module, nn.Module) else ():
                    if parameter.ndim > 1 and inwards:
                        parameter[:, channels] = 0
                    elif not inwards:
                        parameter[channels] = 0
    return silent


# -- thinner factors -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(outs=st.integers(1, 30), ins=st.integers(1, 30), share=st.floats(0, 0.95), seed=st.integers(0, 9))
def test_factors_have_fewer_macs_and_are_the_nearest_of_their_rank(outs: int, ins: int, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(ins, outs).double()
    factored = lowrank.factorise(layer, share)
    if isinstance(factored, nn.Linear):
        assert share == 0 or lowrank.rank(outs, ins, share) * (outs + ins) >= outs * ins
        return
    assert isinstance(factored, nn.Sequential)
    first, second = factored
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    rank = first.out_features
    assert rank == 1 or rank * (outs + ins) <= (1 - share) * outs * ins
    values = torch.linalg.svdvals(layer.weight.detach())
    missed = torch.linalg.matrix_norm(second.weight.detach() @ first.weight.detach() - layer.weight.detach())
    assert torch.allclose(missed, values[rank:].square().sum().sqrt(), atol=1e-9)


def test_a_kernel_of_full_rank_in_factors_is_the_same_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 4, 3, stride=2, padding=1, dilation=1)
    with torch.no_grad():
        conv.weight[2:] = conv.weight[:2]  # rank 2
        factored = lowrank.factorise(conv, 0.4)
        assert isinstance(factored, nn.Sequential)
        assert torch.allclose(factored(picture(2, 8)), conv(picture(2, 8)), atol=1e-6)


# -- shared and coded ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(bits=st.integers(1, 8), sparsity=st.floats(0, 1), seed=st.integers(0, 9))
def test_weights_share_as_few_values_as_their_bits_have(bits: int, sparsity: float, seed: int) -> None:
    pruned = unstructured.prune(small_net(seed), sparsity)
    shared = sharing.share(pruned, bits)
    for name, weight in weights(shared).items():
        assert len(set(weight[weight != 0].tolist())) <= 2**bits
        assert torch.equal(weight == 0, weights(pruned)[name] == 0)


def test_clusters_are_those_of_scikit_learn() -> None:
    import numpy
    from sklearn.cluster import KMeans

    values = torch.randn(2000, generator=torch.Generator().manual_seed(0)).double()
    start = numpy.linspace(float(values.min()), float(values.max()), 16).reshape(-1, 1)
    theirs = KMeans(16, init=start, n_init=1, max_iter=sharing.ITERATIONS, tol=0).fit(values.unsqueeze(1).numpy())
    ours = sharing.clustered(values, 16)
    assert torch.allclose(ours, torch.from_numpy(theirs.cluster_centers_[theirs.labels_, 0]), atol=1e-9)


def test_tuning_keeps_zeros_zero_and_shared_values_shared() -> None:
    net = sharing.share(unstructured.prune(small_net(), 0.5), 3)
    before = deepcopy(net)
    addition = sharing.Tuned()
    addition.begin(net, net)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    for step in range(3):
        net(picture(4)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        again = sharing.Tuned()
        again.begin(net, net)
        again.restore(addition.state())  # as after an interruption
        again.stepped(net, (step + 1) / 3)
    moved = 0
    for name, weight in weights(net).items():
        old = weights(before)[name]
        assert torch.equal(weight == 0, old == 0)
        for value in set(old.flatten().tolist()):
            assert len(set(weight[old == value].tolist())) == 1
        moved += int((weight != old).sum())
    assert moved > 0


numbers = st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e-30, float("nan"), float("inf")])


@settings(deadline=None)
@given(
    kind=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
    shape=st.lists(st.integers(0, 40), min_size=0, max_size=3), sparsity=sparsities,
    values=st.lists(numbers, min_size=1, max_size=5), seed=st.integers(0, 99),
)  # fmt: skip
def test_what_is_coded_decodes_to_the_last_bit(
    kind: torch.dtype, shape: list[int], sparsity: float, values: list[float], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.tensor(values)[torch.randint(len(values), shape, generator=generator)]
    tensor = (
        (drawn * (torch.rand(shape, generator=generator) >= sparsity))
        .nan_to_num(0 if not kind.is_floating_point else None)
        .to(kind)
    )
    if kind.is_floating_point:
        tensor = drawn.where(torch.rand(shape, generator=generator) >= sparsity, 0.0).to(kind)
    decoded, facts = coding.decode(coding.encode({"a": tensor, "b": tensor.clone()}, {"of": [seed]})[0])
    assert facts == {"of": [seed]}
    for name in ("a", "b"):
        assert decoded[name].dtype == kind
        assert decoded[name].shape == tensor.shape
        assert decoded[name].contiguous().flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()


def test_gaps_longer_than_a_byte_are_bridged() -> None:
    matrix = torch.zeros(40, 100)
    matrix[0, 0], matrix[7, 3], matrix[39, 99] = 1.0, 2.0, 3.0
    assert torch.equal(coding.decode(coding.encode({"w": matrix})[0])[0]["w"], matrix)


def test_stages_take_less_and_less() -> None:
    torch.manual_seed(0)
    net = sharing.share(unstructured.prune(nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 10)), 0.9), 4)
    file, stages = coding.encode(net.state_dict())
    assert stages["dense"] == 4 * (400 * 300 + 300 + 3000 + 10)
    assert stages["dense"] > 5 * stages["pruned"]
    assert stages["pruned"] > 2 * stages["shared"] > 2 * stages["coded"] == 2 * len(file)


@settings(deadline=None, max_examples=40)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_changed_or_cut_file_is_refused(where: float, bit: int, cut: bool) -> None:
    file = bytearray(coding.encode(unstructured.prune(small_net(), 0.9).state_dict())[0])
    at = int(where * len(file))
    if cut:
        del file[at:]
    else:
        file[at] ^= 1 << bit
    with pytest.raises(BadCheckpoint, match=r"cut off or changed|no file of coded weights"):
        coding.decode(bytes(file))


# -- on disk ---------------------------------------------------------------------------------------------------


CODED = ("small_cnn", "resnet20", "small_mixer")  # coding takes seconds for each million of weights


@pytest.mark.parametrize("model", ["mlp", "small_cnn", "resnet20", "vit_cifar", "small_mixer"])
def test_a_compressed_net_is_built_from_its_file(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    asked = find(model)
    size = asked.image_size
    net, inputs = asked.instantiate(size).eval(), picture(2, asked.dataset(size).channels, size)
    chain = structured.prune(net, 0.2, inputs[:1])
    for made in (chain, lowrank.factorise(chain, 0.3), sparse.sparsified(unstructured.prune(chain, 0.9))):
        for coded in (False, True) if model in CODED else (False,):
            stored.save(made, asked, size, tmp_path / "net", coded)
            again = stored.load(asked, size, tmp_path / "net")
            with torch.no_grad():
                assert torch.equal(again(inputs), made(inputs))
            assert not again.training
            assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in made.state_dict().items())


def test_a_coded_file_is_as_large_as_its_last_stage_says(tmp_path: Path) -> None:
    asked, path = find("mlp"), tmp_path / "net"
    net = sharing.share(unstructured.prune(asked.instantiate(8), 0.95), 4)
    sizes = []
    for made in (net, sparse.sparsified(net)):
        stages = stored.save(made, asked, 8, path, coded=True) or {}
        assert stages["coded"] == path.stat().st_size < 0.04 * stages["dense"]
        sizes.append(stages["coded"])
    assert sizes[1] < 1.02 * sizes[0]  # how it is executed is no matter of its size


def test_a_file_of_another_model_and_a_changed_one_are_refused(tmp_path: Path) -> None:
    asked, path = find("mlp"), tmp_path / "net.safetensors"
    stored.save(unstructured.prune(asked.instantiate(8), 0.5), asked, 8, path)
    for other, size in ((find("small_cnn"), 8), (find("mlp+width=512"), 8), (asked, 7)):
        with pytest.raises(BadCheckpoint, match=rf"net.safetensors is of mlp at 8 pixels, expected one of .* at {size} pixels"):
            stored.load(other, size, path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match="changed after it was written"):
        stored.load(asked, 8, path)


def test_what_cannot_be_described_says_so(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        pass

    asked = find("mlp")
    net = asked.instantiate(8)
    name, layer = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear))
    net = sparse.replaced(net, name, Odd(layer.in_features, layer.out_features))
    with pytest.raises(stored.CannotStore, match=f"{name} is now a Odd"):
        stored.save(net, asked, 8, tmp_path / "net.safetensors")


# -- nets of other makes ---------------------------------------------------------------------------------------


class Heads(nn.Module):
    """Two outputs, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = small_net()[:-1], nn.Linear(32, 10), nn.Linear(32, 4)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        found = self.body(inputs)
        return {"first": self.first(found), "second": self.second(found)}


def test_a_net_that_returns_a_dictionary_loses_channels() -> None:
    net = Heads().eval()
    pruned = structured.prune(net, 0.4, picture())
    assert macs(pruned, picture()) <= 0.6 * macs(net, picture())
    assert {name: tuple(output.shape) for name, output in pruned(picture(2)).items()} == {"first": (2, 10), "second": (2, 4)}
    with pytest.raises(ValueError, match=r"expected a net that returns scores, got dict; by=magnitude"):
        structured.prune(net, 0.4, picture(), by="taylor", batch=(picture(4), torch.arange(4)))


@pytest.mark.parametrize("variant", ["prune50", "svd50", "share", "prune50+sparse"])
@pytest.mark.parametrize("make", ["weight_norm", "parametrized", "tied", "twice"])
def test_weights_that_are_not_a_layers_own_are_refused_by_name(variant: str, make: str) -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    if make == "weight_norm":
        nn.utils.weight_norm(net[2])
    elif make == "parametrized":
        nn.utils.parametrizations.weight_norm(net[2])
    elif make == "tied":
        net[2].weight = net[0].weight
    else:
        net[2] = net[0]
    words = r"got 2, whose weight is computed .*remove_" if "t" not in make[:1] else r"got 0.weight and 2.weight, which are one"
    with pytest.raises(Unfit, match=rf"^{variant.partition('+')[0]}: expected layers with weights of their own, {words}"):
        variants.find(variant)(net)

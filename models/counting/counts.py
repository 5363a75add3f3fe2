"""Parameters and MACs by three routes, on the meta device: no weights, no arithmetic.

The convention is written down in models/layers.py and docs/counting.md.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.fastpath import without_attention_fast_path
from plumbline.models.counting.published import Published, published
from plumbline.models.layers import Layer, macs, parameters
from plumbline.models.model import Model
from plumbline.models.weights.seeding import pictures

if TYPE_CHECKING:
    from torch import nn

# What ptflops counts and the convention does not, by a part of the module's class name (ptflops, pytorch_ops.py).
BEYOND_CONVENTION = {
    "Norm": "norms", "ReLU": "activations", "GELU": "activations", "ELU": "activations", "Pool": "pooling", "Upsample": "resizing"
}  # fmt: skip


@dataclass
class ModuleCount:
    """What torch's counter found in one module over all its calls, its child modules left out.

    `outputs` counts the elements of what it returns, `rows` the vectors along the last axis (attention's tokens), and
    `pairs` those with each row of the same picture: the entries of one head's attention matrices. `summed` is how many numbers
    are added up into one, of the longest sum without products (a norm, a pooling, a softmax).
    """

    parameters: int = 0
    macs: int = 0
    outputs: int = 0
    rows: int = 0
    pairs: int = 0
    summed: int = 0

    @property
    def fan_in(self) -> int:
        """As in `models.layers.Layer`."""
        return self.macs // max(1, self.outputs) or self.summed


def count(model: Model, image_size: int) -> dict[str, Any]:
    """Count the parameters and MACs of one image by every route; ready for JSON.

    `layers` are what torch's counter saw of each module, in the form of a formula; `harness.facts.Counts` says what the other
    fields hold. Raises ValueError where something multiplies that no route can count.
    """
    if model.file is not None:
        return _of_file(model.file, image_size)
    formula = model.formula(image_size)
    net, arguments, modules = _by_torch(model, image_size)
    total, trainable, by_module, attended = _ptflops(net, arguments)
    explained, unexplained = _explain(net, modules, by_module, attended)
    frozen = sum(parameter.numel() for parameter in net.parameters() if not parameter.requires_grad)
    counted = {"parameters": sum(p.numel() for p in net.parameters()), "macs": sum(layer.macs for layer in modules.values())}
    by_formula = None if formula is None else {"parameters": parameters(formula), "macs": macs(formula)}
    return {
        **(by_formula or counted),
        "formula": by_formula,
        "flop_counter": counted,
        "ptflops": {"parameters": trainable + frozen, "macs": total},  # it leaves out the frozen ones
        "explained": explained,
        "unexplained": unexplained,
        "differing": {} if formula is None else _differing(formula, modules),
        "published": [_beside(figure, modules, explained) for figure in published(model.name, image_size)],
        "layers": as_layers(modules),
    }


def layers_by_torch(model: Model, image_size: int) -> list[Layer]:
    """Return the layers of a model by torch's counter alone, or by its ONNX file. Raises ValueError as `count` does."""
    if model.file is not None:
        return [Layer(**fields) for fields in _of_file(model.file, image_size)["layers"]]
    _, _, modules = _by_torch(model, image_size)
    return [Layer(**fields) for fields in as_layers(modules)]


def as_layers(modules: dict[str, ModuleCount]) -> list[dict[str, Any]]:
    """Return the fields of `models.layers.Layer` of every module that holds numbers, multiplies, or adds up."""
    return [
        {"name": name, "parameters": layer.parameters, "macs": layer.macs, "fan_in": layer.fan_in}
        for name, layer in modules.items()
        if layer.macs or layer.parameters or layer.summed
    ]


def _beside(figure: Published, modules: dict[str, ModuleCount], explained: dict[str, int]) -> dict[str, Any]:
    """Return a published figure beside this project's, counted the way in which its source counted."""
    at = figure.layer
    chosen = [layer for name, layer in modules.items() if at is None or name == at or name.startswith(f"{at}.")]
    counted = sum(getattr(layer, figure.metric) for layer in chosen) + sum(explained.get(kind, 0) for kind in figure.beyond)
    shown = {"metric": figure.metric, "layer": at, "value": figure.value, "source": figure.source, "note": figure.note}
    return {**shown, "ours": counted, "agrees": figure.agrees(counted)}


def _of_file(path: Path, image_size: int) -> dict[str, Any]:
    """The same for an ONNX file: by shapes that are inferred, and by those seen when it is executed."""
    from plumbline.models.onnx.layers import layers, numbers
    from plumbline.models.onnx.reference import executed
    from plumbline.models.onnx.sums import sums

    graph, products = layers(path, image_size), executed(path, image_size)
    counted = {"parameters": parameters(graph), "macs": macs(graph)}
    by_shapes = {layer.name: layer.macs for layer in graph if layer.macs}
    seen = {name: amount for name, amount in products.items() if amount}
    return {
        **counted,
        "formula": None,
        "flop_counter": None,
        "ptflops": None,
        "graph": counted,
        "executed": {"parameters": numbers(path)["parameters"], "macs": sum(seen.values())},
        "explained": {},
        "unexplained": {
            name: [seen.get(name, 0), by_shapes.get(name, 0)]
            for name in {**by_shapes, **seen}
            if by_shapes.get(name) != seen.get(name)
        },
        "differing": {},
        "published": [],
        "layers": [asdict(layer) for layer in (*graph, *sums(path, image_size))],
    }


def _by_torch(model: Model, image_size: int) -> tuple[nn.Module, tuple[Any, ...], dict[str, ModuleCount]]:
    """A net, what it is called with, and what torch's counter sees of it: without any numbers where that is possible.

    A net whose way depends on its numbers needs some: a detector drops boxes, and third-party builders may take an
    `item()` of a tensor.
    """
    if model.inputs is None:
        try:
            net, arguments = _on_meta(model, image_size)
            return net, arguments, torch_layers(net, arguments)
        except (RuntimeError, TypeError):
            if model.layers is not None:
                raise
    net, arguments = _on_cpu(model, image_size)
    return net, arguments, torch_layers(net, arguments)


def _on_meta(model: Model, image_size: int) -> tuple[nn.Module, tuple[Any, ...]]:
    import torch

    with torch.device("meta"):
        net = model.instantiate(image_size).eval()
        return net, (torch.empty(1, model.dataset(image_size).channels, image_size, image_size),)


def _on_cpu(model: Model, image_size: int) -> tuple[nn.Module, tuple[Any, ...]]:
    net = model.instantiate(image_size).eval()
    return net, model.positional(pictures(1, model.dataset(image_size).channels, image_size, seed=0))


def torch_layers(net: nn.Module, arguments: tuple[Any, ...]) -> dict[str, ModuleCount]:
    """Count by torch's own counter (`FlopCounterMode`, two FLOPs a MAC), module by module.

    The counter's own table by module adds up what lies below; here the total is read where a module begins and ends.
    """
    import torch
    from torch import Tensor
    from torch.utils.flop_counter import FlopCounterMode

    from plumbline.models.counting.products import Watched, formulas
    from plumbline.models.counting.sums import Sums

    modules = {
        name: ModuleCount(sum(parameter.numel() for parameter in module.parameters(recurse=False)))
        for name, module in net.named_modules()
    }
    running: list[list[int]] = []  # for each module that is running: the total at its beginning, and its children's share
    names: list[str] = []

    def begin(name: str, *_: Any) -> None:
        running.append([counter.get_total_flops(), 0])
        names.append(name)

    def add_up(terms: int) -> None:
        module = modules[names[-1] if names else ""]
        module.summed = max(module.summed, terms)

    def end(layer: ModuleCount, _module: nn.Module, _arguments: Any, output: Any) -> None:
        before, below = running.pop()
        names.pop()
        flops = counter.get_total_flops() - before
        if running:
            running[-1][1] += flops
        if (flops - below) % 2:
            raise ValueError(f"torch's counter gave an odd number of FLOPs, {flops - below}; a MAC is two of them")
        layer.macs += (flops - below) // 2
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(first, Tensor):
            rows = first.numel() // max(1, first.shape[-1]) if first.dim() else 0
            layer.outputs += first.numel()
            layer.rows += rows
            layer.pairs += rows * first.shape[-2] if first.dim() > 1 else 0

    with contextlib.ExitStack() as stack:
        stack.enter_context(without_attention_fast_path())
        for name, module in net.named_modules():
            stack.callback(module.register_forward_pre_hook(partial(begin, name)).remove)
            stack.callback(module.register_forward_hook(partial(end, modules[name])).remove)
        for parameter in net.parameters():  # the counter follows gradients, and trips over a parameter that is an argument
            if parameter.requires_grad:
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
        stack.enter_context(Sums(add_up))
        counter = FlopCounterMode(display=False, custom_mapping=formulas())
        stack.enter_context(Watched(counter.flop_registry, lambda: names[-1] or "the model itself"))
        stack.enter_context(counter)
        stack.enter_context(torch.no_grad())
        net(*arguments)
    return modules


def _differing(formula: Iterable[Layer], modules: dict[str, ModuleCount]) -> dict[str, list[list[int]]]:
    """The modules for which formula and counter differ: [parameters, MACs] of each."""
    by_formula: dict[str, list[int]] = {}
    for layer in formula:
        # a layer is a module, or a parameter that some module holds itself
        name = layer.name if layer.name in modules else layer.name.rpartition(".")[0]
        entry = by_formula.setdefault(name, [0, 0])
        entry[0] += layer.parameters
        entry[1] += layer.macs
    by_counter = {name: [layer.parameters, layer.macs] for name, layer in modules.items()}
    nothing = [0, 0]
    names = [name for name in {**by_formula, **by_counter} if by_formula.get(name, nothing) != by_counter.get(name, nothing)]
    return {name: [by_formula.get(name, nothing), by_counter.get(name, nothing)] for name in names}


@dataclass(frozen=True)
class Attended:
    """One call of an `nn.MultiheadAttention`: how many sequences, and the length of the queries and of the keys in each."""

    sequences: int
    queries: int
    keys: int


def _ptflops(net: nn.Module, arguments: tuple[Any, ...]) -> tuple[int, int, dict[str, int], dict[str, list[Attended]]]:
    """ptflops' MACs of the modules, its parameters (the trainable ones), each module's own MACs, and attention's calls.

    Only modules are counted: left to itself, ptflops also counts calls of torch.nn.functional, the modules' own
    among them, so that a net of nn.Linear comes out twice as large as it is (mlp: 4.36 instead of 2.18 MMAC).
    """
    import torch
    from ptflops import get_model_complexity_info
    from ptflops.pytorch_ops import multihead_attention_counter_hook
    from torch import nn

    class Whole(nn.Module):
        """ptflops calls a net with one tensor, or with keywords."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, **_: Any) -> Any:
            return self.net(*arguments)

    by_module: dict[str, int] = {}

    def read(*_: Any) -> None:
        # ptflops deletes its per-module figures before it returns; this hook on the root runs just before
        for name, module in net.named_modules():
            if hasattr(module, "__flops__"):
                by_module[name] = int(module.__flops__)

    named = {module: name for name, module in net.named_modules()}
    attended: dict[str, list[Attended]] = {}

    def attend(module: nn.MultiheadAttention, given: tuple[Any, ...], output: Any) -> None:
        # its hook takes three arguments and no more, each with an axis for the sequences
        batched = tuple(tensor if tensor.dim() == 3 else tensor.unsqueeze(0 if module.batch_first else 1) for tensor in given[:3])
        multihead_attention_counter_hook(module, batched, output)
        sequences, length = (0, 1) if module.batch_first else (1, 0)
        queries, keys = batched[:2]
        attended.setdefault(named[module], []).append(
            Attended(queries.shape[sequences], queries.shape[length], keys.shape[length])
        )

    whole = Whole()
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.callback(whole.register_forward_hook(read).remove)
        for module in named:
            if _has_hook(module):  # its hooks read arguments by their places
                stack.callback(module.register_forward_pre_hook(_in_places, with_kwargs=True).remove)
        stack.enter_context(without_attention_fast_path())
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            total, trainable = get_model_complexity_info(
                whole,
                (1,),
                input_constructor=lambda _: {"nothing": None},
                as_strings=False,
                print_per_layer_stat=False,
                custom_modules_hooks={nn.MultiheadAttention: attend},
                backend_specific_config={"count_functional": False},
            )
    if total is None:
        raise ValueError(f"ptflops could not count this model: {printed.getvalue().strip().splitlines()[-1:]}")
    return int(total), int(trainable), by_module, attended


def _in_places(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, those that were named in their places."""
    bound = inspect.signature(module.forward).bind(*given, **named)
    return bound.args, bound.kwargs


def _explain(
    net: nn.Module, modules: dict[str, ModuleCount], by_module: dict[str, int], attended: dict[str, list[Attended]]
) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Put ptflops' figure of each module beside that of torch's counter.

    Returns what it counts beyond the convention (negative: what it leaves out), by kind, and the modules where it
    differs for no known reason: [its figure, torch's].
    """
    explained: dict[str, int] = {}
    unexplained: dict[str, list[int]] = {}
    named = dict(net.named_modules())
    for name, layer in modules.items():
        by_ptflops = by_module.get(name, 0)
        reasons = list(_reasons(named[name], layer, by_ptflops, attended.get(name, [])))
        if by_ptflops != layer.macs + sum(amount for _, amount in reasons):
            unexplained[name] = [by_ptflops, layer.macs]
            continue
        if _has_hook(named[name]):
            # once it has a figure for a module, ptflops adds up nothing below it (flops_engine, accumulate_flops)
            reasons.append((f"left out below {type(named[name]).__name__}", -_below(named[name], name, by_module)))
        for kind, amount in reasons:
            if amount:
                explained[kind] = explained.get(kind, 0) + amount
    for name, amount in _again(net, by_module):
        explained[name] = explained.get(name, 0) + amount
    return explained, unexplained


def _again(net: nn.Module, by_module: dict[str, int]) -> Iterator[tuple[str, int]]:
    """What ptflops adds up a second time: a module that has several places in the net, of which torch's counter sees one."""
    first = {module: name for name, module in net.named_modules()}
    for name, module in net.named_modules(remove_duplicate=False):
        parent = name.rpartition(".")[0]
        # below a second place everything is a second place; the topmost one stands for all of it
        if first[module] != name and first[net.get_submodule(parent)] == parent:
            amount = by_module.get(first[module], 0) if _has_hook(module) else _below(module, first[module], by_module)
            if amount:
                yield f"{first[module]} again as {name}", amount


def _below(module: nn.Module, name: str, by_module: dict[str, int]) -> int:
    """ptflops' MACs of the modules inside a module of that name."""
    return sum(by_module.get(f"{name}.{below}", 0) for below, _ in module.named_modules() if below)


def _reasons(module: nn.Module, layer: ModuleCount, by_ptflops: int, attended: Iterable[Attended]) -> Iterator[tuple[str, int]]:
    """Why ptflops' figure of a module is not the convention's: kind and MACs."""
    from torch import nn

    kind = type(module).__name__
    if not _has_hook(module):  # it knows the exact types of its table only: no subclass, no call of a function
        yield f"not seen in {kind}", -layer.macs
    elif isinstance(module, nn.MultiheadAttention):
        for call in attended:
            yield from _attention(module, call)
    elif kind == "Attention":  # timm's
        heads, width = int(module.num_heads), int(module.head_dim)  # type: ignore[arg-type]
        yield "attention's scaling", layer.rows * heads * width
        yield "softmax", heads * layer.pairs
    elif layer.macs:
        yield "biases", layer.outputs if getattr(module, "bias", None) is not None else 0
    else:
        beyond = next((word for part, word in BEYOND_CONVENTION.items() if part in kind), None)
        if beyond:
            yield beyond, by_ptflops


def _attention(module: nn.MultiheadAttention, call: Attended) -> Iterator[tuple[str, int]]:
    queries, keys = call.sequences * call.queries, call.sequences * call.keys
    pairs, width, of_keys, of_values = queries * call.keys, module.embed_dim, module.kdim, module.vdim
    yield "attention's scaling", queries * width
    yield "softmax", module.num_heads * pairs
    yield "biases", (queries + 2 * keys) * width if module.in_proj_bias is not None else 0
    yield "biases", queries * of_values  # of the output, whether it has one or not
    # it takes keys and values to stay as wide as they come, and the output to be as wide as the values
    heads = of_values // module.num_heads * module.num_heads
    projected = keys * (of_keys * (of_keys - width) + of_values * (of_values - width))
    yield "widths of keys and values", projected + pairs * (heads - width) + queries * (of_values**2 - width**2)
    added = (module.bias_k is not None) + module.add_zero_attn
    yield "keys and values that attention adds", -2 * added * queries * width


def _has_hook(module: nn.Module) -> bool:
    from ptflops.pytorch_ops import MODULES_MAPPING

    return type(module) in MODULES_MAPPING

"""Compressions: chains of techniques, each a function from a net and its options to a new net, never in place. Imports no torch.

A reference is `technique[number][+option=value ...]`, and more of them behind a `+`: `prune95`, `prune95+by=random`,
`filter50+tune+svd25`. The number is the technique's amount in percent, and always says how much goes. The order is that in which
they work, and part of the name. Other packages bring techniques by entry point, without options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Protocol

from plumbline import NotHere, Unfit, UnknownName, entry_points
from plumbline.texts import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plumbline.models.addition import Addition
    from plumbline.models.model import Model
    from plumbline.models.training.recipes import Recipe

GROUP = "plumbline.variants"
DENSE = "dense"


class Context(Protocol):
    """What a technique may need besides the net."""

    @property
    def seed(self) -> int: ...

    def example(self) -> Tensor:
        """Return a picture, (1, channels, height, width)."""

    def labelled(self, count: int) -> tuple[Tensor, Tensor]:
        """Return pictures and labels of the training split. Raises `NoData`."""

    def teacher(self, name: str) -> nn.Module:
        """Return a model with its trained weights. Raises `NotTrained`."""

    def trained(self, variant: Variant, net: nn.Module) -> nn.Module:
        """Return a net, trained as a variant whose last technique trains. Raises `NotTrained`."""


class NotTrained(NotHere):
    """A technique needs training that has not been done, and that takes too long to be done by the way; says what to do."""


@dataclass(frozen=True)
class Technique:
    """One way to compress a net, and its options.

    `options` are the defaults; `choices` the words that an option takes; `amount` the option that a number behind the name sets,
    in percent. `function` is `module:function`: from net, context and options it makes a new net; or, for one that `trains`, from
    context and options the `Addition` of a training, which begins `anew` or with the weights that the net has.
    """

    name: str
    function: str | Callable[..., Any]
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    amount: str | None = None
    trains: bool = False
    anew: bool = False

    def load(self) -> Callable[..., Any]:
        """Import the technique's function."""
        if callable(self.function):
            return self.function
        module, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


@dataclass(frozen=True)
class Step:
    """A technique with its options."""

    technique: Technique
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        technique = self.technique
        amount = ""
        if technique.amount is not None:
            amount = f"{100 * self.options[technique.amount]:.9f}".rstrip("0").rstrip(".")
        said = [
            f"+{key}={self.options[key]}"
            for key, usual in sorted(technique.options.items())
            if key != technique.amount and self.options[key] != usual
        ]
        return f"{technique.name}{amount}{''.join(said)}"


@dataclass(frozen=True)
class Variant:
    """A chain of techniques; `dense` is the empty one."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        return "+".join(step.name for step in self.steps) or DENSE

    @property
    def before(self) -> Variant:
        """The chain without its last technique."""
        return Variant(self.steps[:-1])

    def has(self, name: str) -> bool:
        """Return whether a technique is one of the chain's."""
        return any(step.technique.name == name for step in self.steps)

    @property
    def outside(self) -> bool:
        """Whether a technique is another package's."""
        return any(isinstance(step.technique.function, _ThirdParty) for step in self.steps)

    @property
    def trains(self) -> bool:
        return any(step.technique.trains for step in self.steps)

    def __call__(self, net: nn.Module, context: Context | None = None) -> nn.Module:
        """A new net. Raises `Unfit`, `NotTrained` and `NoData`."""
        if self.steps:
            from plumbline.models.compression.unstructured import check_weights

            with _named(self.steps[0]):
                check_weights(net)
        for index, step in enumerate(self.steps):
            if step.technique.trains:
                if context is None:
                    raise NotTrained(f"{step.name} trains the net, and needs data")
                net = context.trained(Variant(self.steps[: index + 1]), net)
            else:
                with _named(step):
                    net = step.technique.load()(net, context, **step.options)
        return net

    @property
    def trainings(self) -> tuple[Variant, ...]:
        """The beginnings of the chain that end in a technique which trains, the whole one perhaps among them."""
        return tuple(Variant(self.steps[: at + 1]) for at, step in enumerate(self.steps) if step.technique.trains)

    def untrained(self, net: nn.Module, context: Context | None) -> nn.Module:
        """Return what the last technique begins to train."""
        return (self.before if self._trains_last else self)(net, context)

    def addition(self, context: Context | None) -> Addition:
        """Return what the last technique adds to training. Raises `Unfit`."""
        from plumbline.models.addition import Addition

        if not self.steps:
            return Addition()
        step = self.steps[-1]
        made = step.technique.load()
        with _named(step):
            added: Addition = made(context, **step.options) if self._trains_last else getattr(made, "addition", Addition)()
        return added

    def recipe(self, model: Model, image_size: int) -> Recipe:
        """Return how the last technique trains a model.

        That is the model's own recipe; from weights that it has, for fewer epochs (a fifth where the option says none) and with a
        smaller learning rate. Raises `UnknownName` where the model has no recipe.
        """
        usual = model.recipe(image_size)
        options = self.steps[-1].options if self.steps else {}
        if "epochs" not in options:
            return usual
        few = usual.epochs if self.steps[-1].technique.anew else max(1, usual.epochs // 5)
        return replace(usual.of_epochs(options["epochs"] or few), learning_rate=usual.learning_rate * options["rate"])

    @property
    def starts_trained(self) -> bool:
        """Whether the last technique trains a net further, from the weights that it has."""
        return self._trains_last and not self.steps[-1].technique.anew

    @property
    def trainable(self) -> bool:
        """Whether it can be what is trained: dense, a chain whose last technique trains, or another package's."""
        return not self.steps or self._trains_last or isinstance(self.steps[-1].technique.function, _ThirdParty)

    @property
    def _trains_last(self) -> bool:
        return bool(self.steps) and self.steps[-1].technique.trains


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """What a technique refuses, with its name."""
    try:
        yield
    except ValueError as reason:
        raise Unfit(f"{step.name}: {reason}") from reason


# What may stand behind a technique, where not everything may, and why not.
BEHIND = {"sparse": ("tune", "huffman"), "huffman": ("sparse",)}
WHY = {"sparse": "'sparse' leaves the zeros out", "huffman": "'huffman' is how the finished net is stored"}
_MAKERS = "plumbline.models.compression.techniques"
TECHNIQUES = {
    technique.name: technique
    for technique in (
        Technique(
            "prune",
            f"{_MAKERS}:prune",
            "weights set to zero, the smallest or random ones; of all together or of each layer",
            {"sparsity": 0.5, "by": "magnitude", "scope": "global", "layers": "all", "pattern": "any"},
            {"by": ("magnitude", "random"), "scope": ("global", "layer"), "layers": ("all", "linear"), "pattern": ("any", "2:4")},
            amount="sparsity",
        ),
        Technique(
            "gradual",
            f"{_MAKERS}:gradual",
            "weights set to zero, more and more of them while the net is trained",
            {"sparsity": 0.5, "scope": "global", "layers": "all", "epochs": 0, "rate": 0.3},
            {"scope": ("global", "layer"), "layers": ("all", "linear")},
            amount="sparsity",
            trains=True,
        ),
        Technique(
            "filter",
            f"{_MAKERS}:filters",
            "whole channels removed until that share of the MACs is gone",
            {"share": 0.5, "by": "magnitude", "keep": 0.1, "unit": 16},
            {"by": ("magnitude", "taylor")},
            amount="share",
        ),
        Technique(
            "svd",
            f"{_MAKERS}:svd",
            "layers as products of two thinner ones, that share of their MACs less",
            {"share": 0.5},
            amount="share",
        ),
        Technique("share", f"{_MAKERS}:share", "the weights of a layer share 2**bits values, by k-means", {"bits": 5}),
        Technique("huffman", f"{_MAKERS}:huffman", "coded on disk by gaps, shared values and Huffman's code"),
        Technique(
            "sparse",
            f"{_MAKERS}:sparse",
            "layers that store and multiply only what is not zero, where that is faster",
            {"format": "csr"},
            {"format": ("csr", "coo", "2:4")},
        ),
        Technique(
            "tune",
            f"{_MAKERS}:tune",
            "trained further; zeros stay zero, shared weights shared",
            {"epochs": 0, "rate": 0.3},
            trains=True,
        ),
        Technique(
            "l1",
            f"{_MAKERS}:l1",
            "trained further with the sizes of its weights in the loss, and rounded",
            {"penalty": 1e-4, "decimals": 2, "epochs": 0, "rate": 1.0},
            trains=True,
        ),
        Technique(
            "serene",
            f"{_MAKERS}:serene",
            "trained further, weights that the outputs hardly depend on made smaller",
            {"decay": 1e-3, "threshold": 5e-3, "epochs": 0, "rate": 0.3},
            trains=True,
        ),
        Technique(
            "distill",
            f"{_MAKERS}:distill",
            "trained from the beginning by the scores of a teacher, too",
            {"teacher": "", "temperature": 4.0, "alpha": 0.9, "epochs": 0, "rate": 1.0},
            trains=True,
            anew=True,
        ),
    )
}


def announced() -> dict[str, EntryPoint]:
    """Return the techniques of installed packages."""
    return entry_points.announced(GROUP, (DENSE, *TECHNIQUES))


def find(reference: str) -> Variant:
    """Return the chain of a reference. Raises `UnknownName`; of another package's technique nothing is loaded yet."""
    if reference == DENSE:
        return Variant(())
    chain: list[tuple[Technique, dict[str, Any]]] = []
    for part in reference.split("+"):
        if "=" in part:
            if not chain:
                raise UnknownName(f"variant {reference!r}: option {part!r} stands before any technique")
            _set(chain[-1], part, reference)
        else:
            chain.append(_begun(part, reference))
    for technique, options in chain:
        if technique.amount is not None and technique.amount not in options:
            raise UnknownName(
                f"variant {reference!r}: expected a number behind {technique.name!r}, how many percent go, as in "
                f"{technique.name}50"
            )
    _check_order([technique for technique, _ in chain], reference)
    return Variant(tuple(Step(technique, {**technique.options, **options}) for technique, options in chain))


def _check_order(chain: Sequence[Technique], reference: str) -> None:
    """What cannot compose says why."""
    names = [technique.name for technique in chain]
    for number, technique in enumerate(chain):
        if technique.anew and number:
            raise UnknownName(
                f"variant {reference!r}: {technique.name!r} trains from the beginning, so nothing can stand before it; expected "
                f"{technique.name}+{names[0]}, say"
            )
        late = next((name for name in names[number + 1 :] if name not in BEHIND.get(technique.name, names)), None)
        if late is not None:
            raise UnknownName(
                f"variant {reference!r}: {WHY[technique.name]}, so {late!r} cannot work behind it; expected "
                f"{late!r} before {technique.name!r}"
            )


def _begun(part: str, reference: str) -> tuple[Technique, dict[str, Any]]:
    others = announced()
    if part in others:
        return Technique(part, _ThirdParty(part), "another package's"), {}
    name, number = part, ""
    if part not in TECHNIQUES:
        match = re.fullmatch(r"(.*?[a-z])(\d+(?:\.\d+)?)", part)
        name, number = match.groups() if match else (part, "")
    if name not in TECHNIQUES:
        known = [DENSE, *TECHNIQUES, *others]
        raise UnknownName(f"no variant {part!r}{nearest(name, known)}; known: {', '.join(known)}")
    technique = TECHNIQUES[name]
    if not number:
        return technique, {}
    if technique.amount is None:
        raise UnknownName(f"variant {reference!r}: {name!r} takes no number, got {part!r}")
    if float(number) > 100:
        raise UnknownName(f"variant {reference!r}: expected 0 to 100 percent behind {name!r}, got {number}")
    return technique, {technique.amount: float(f"{float(number) / 100:.12g}")}


def _set(begun: tuple[Technique, dict[str, Any]], part: str, reference: str) -> None:
    technique, options = begun
    key, _, text = part.partition("=")
    where = f"variant {reference!r}, technique {technique.name!r}"
    if key not in technique.options:
        raise UnknownName(f"{where} has no option {key!r}; known: {', '.join(technique.options) or 'none'}")
    kind = type(technique.options[key])
    try:
        options[key] = kind(text)
    except ValueError:
        raise UnknownName(f"{where}, option {key!r}: expected {kind.__name__}, got {text!r}") from None
    if key == technique.amount and not 0 <= options[key] <= 1:
        raise UnknownName(f"{where}, option {key!r}: expected a share from 0 to 1, got {text!r}")
    if key in technique.choices and text not in technique.choices[key]:
        raise UnknownName(f"{where}, option {key!r}: expected {', '.join(technique.choices[key])}, got {text!r}")


class _ThirdParty:
    """Another package's technique, which is a function from a net to a new one; loaded when it is needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _function(self) -> Any:
        return entry_points.load("variant", announced()[self._name])

    @property
    def addition(self) -> Any:
        from plumbline.models.addition import Addition

        return getattr(self._function, "addition", Addition)

    def __call__(self, net: nn.Module, context: Context | None) -> nn.Module:
        changed: nn.Module = self._function(net)
        return changed

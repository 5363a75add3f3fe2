"""What is compared: two revisions, two files, two places, two sets of packages. Each is made two sides with cells of one name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from plumbline import PlumblineError
from plumbline.harness.cell import Cell, shown_model
from plumbline.harness.session import environments, places
from plumbline.harness.session.elsewhere import Elsewhere
from plumbline.harness.session.places import Place
from plumbline.harness.session.revisions import BadRevision, Difference, Repository, Tree, as_it_is, written
from plumbline.harness.session.selection import Selected, Selection, select
from plumbline.harness.session.session import needed
from plumbline.harness.session.shipping import Needed, Revision
from plumbline.harness.settings import Settings

BASE, HEAD, TWIN = "base", "head", "twin"


class Asked(Struct, frozen=True):
    """What the two sides are: of `models`, `targets` and `packages` each has its own, base first. None: the same for both."""

    selection: Selection
    revisions: tuple[str | None, str] | None = None
    models: tuple[str, str] | None = None
    targets: tuple[str, str] | None = None
    packages: tuple[Sequence[str], Sequence[str]] = ((), ())


class Side(Struct, frozen=True):
    """One of the two: its name for people, the place that starts its probe, and its cells.

    `cells` are by a name that both sides share; `impossible` says of some why they cannot run there, `broken` why none can.
    `differs`: how a head does from its base, where only files and packages make the difference. A place elsewhere is brought
    `revision`, and of its data sets those `folders` that are here.
    """

    shown: str
    place: Place
    cells: dict[str, Cell]
    impossible: dict[str, str]
    broken: str | None = None
    differs: Difference | None = None
    revision: Revision | None = None
    folders: Sequence[str] = ()

    def needs(self, settings: Settings) -> Needed:
        """Return what its cells need at their place, of what is here."""
        if self.revision is None:
            return needed(list(self.cells.values()), settings)
        root = settings.data
        data = () if root is None else tuple(root / name for name in self.folders if (root / name).is_dir())
        return Needed(data, settings.weights, revision=self.revision)


class Impossible(PlumblineError, ValueError):
    """What a gate cannot compare; the message says what it can."""


def make(asked: Asked, scratch: Path, cache: Path, say: Callable[[str], None]) -> tuple[Side, Side, Place]:
    """Return base, head, and the place that starts one more probe of the head.

    Raises BadRevision, BadEnvironment, BadPlace and MatrixError.
    """
    trees, words, wrong, differs = _trees(asked, scratch, cache, say)
    found = []
    for number, side in enumerate((BASE, HEAD)):
        selection, shown = asked.selection, [words[side]]
        if asked.models is not None:
            selection = replace(selection, axes={**selection.axes, "model": [asked.models[number]]})
            shown.append(shown_model(asked.models[number]))
        if asked.targets is not None:
            selection = replace(selection, axes={**selection.axes, "target": [asked.targets[number]]})
            shown.append(asked.targets[number])
        shown += asked.packages[number]
        place = trees[side]
        matrices = [tree.matrix for tree in (place, trees[HEAD]) if tree.matrix is not None]
        selection = selection if selection.matrices else replace(selection, matrices=matrices)
        selected, broken = Selected(), wrong if side == BASE else None
        try:
            # what is no revision is asked here, as two places are asked what they can run
            selected = place.select(selection) if asked.targets is None or asked.revisions is not None else select(selection)
        except BadRevision as error:
            if side == HEAD:
                raise
            broken = broken or f"{words[BASE]}: {error}"
        names = {cell.id: _name(cell, asked) for cell in selected.cells}
        cells = {names[cell.id]: cell for cell in selected.cells}
        impossible = {names[name]: reason for name, reason in selected.impossible.items()}
        at = copy(places.of(asked.targets[number])) if asked.targets is not None else _place(selected.cells, place, trees[BASE])
        found.append(
            Side(
                shown=", ".join(filter(None, shown)) or side,
                place=at,
                cells=cells,
                impossible=impossible,
                broken=broken,
                differs=differs if side == HEAD else None,
                revision=None if at is place or asked.revisions is None else place.files(),
                folders=selected.folders,
            )
        )
    twin = trees[TWIN] if found[1].place is trees[HEAD] else found[1].place
    return found[0], found[1], twin


def _place(cells: Sequence[Cell], tree: Tree, base: Tree) -> Place:
    """Return the place of these cells: a tree itself, or one of their side alone elsewhere. Raises Impossible and BadPlace."""
    targets = {cell.place: cell.target for cell in cells}
    if len(targets) > 1:
        raise Impossible(f"expected the cells of a gate at one place, got {' and '.join(targets.values())}; name one by --target")
    if not any(targets):
        return tree
    place = [copy(places.of(cell.target)) for cell in cells][-1]
    if not isinstance(place, Elsewhere):
        raise Impossible(f"expected a gate at ssh:HOST, docker:IMAGE or ssh:HOST/docker:IMAGE, got {place.name}; run it there")
    if tree.python != base.python:
        raise Impossible(
            f"the sides need other packages, and {place.name} has one environment; make an image of each, and compare these: "
            "--base-target docker:A --target docker:B"
        )
    return place


def _trees(
    asked: Asked, scratch: Path, cache: Path, say: Callable[[str], None]
) -> tuple[dict[str, Tree], dict[str, str], str | None, Difference | None]:
    """Return the files of each side with a Python for them, and what the sides are called.

    Then why the base cannot be measured, and by what they differ where it is by nothing but files and packages.
    """
    more = {BASE: asked.packages[0], HEAD: asked.packages[1], TWIN: asked.packages[1]}
    cells_alike = asked.models is None and asked.targets is None
    if asked.revisions is None:
        pythons = {side: environments.running(more[side], cache, say) for side in more}
        differs = None
        if cells_alike:
            none = Difference(frozenset(), frozenset(), revisions=False)
            differs = none.and_of_packages(pythons[BASE], pythons[HEAD])
        return {side: as_it_is(pythons[side]) for side in more}, {BASE: "", HEAD: ""}, None, differs
    repository = Repository(Path.cwd())
    head = repository.find(asked.revisions[1])
    base = repository.usual_base() if asked.revisions[0] is None else repository.find(asked.revisions[0])
    files = {}
    for side, revision in ((BASE, base), (HEAD, head), (TWIN, head)):
        say(f"writing {revision.shown}")
        files[side] = written(repository, revision, scratch / side)
    same = environments.needed(files[BASE]) == environments.needed(files[HEAD])
    trees, wrong = {}, None
    for side in (HEAD, TWIN, BASE):
        if same:
            python = environments.running(more[side], cache, say)
        else:
            python = environments.of_project(files[side], more[side], cache, say)
        try:
            trees[side] = repository.tree({BASE: base}.get(side, head), scratch / side, python)
        except BadRevision as error:  # a base from before the face
            if side != BASE:
                raise
            trees[side], wrong = trees[HEAD], str(error)
    differs = None
    if wrong is None and cells_alike:
        differs = repository.difference(scratch / BASE, scratch / HEAD).and_of_packages(trees[BASE].python, trees[HEAD].python)
    return trees, {BASE: base.shown, HEAD: head.shown}, wrong, differs


def _name(cell: Cell, asked: Asked) -> str:
    """Return the name that a cell has on both sides: its id, without what each side has of its own."""
    model = cell.model if asked.models is None else "MODEL"
    return replace(cell, model=model, target=cell.target if asked.targets is None else cell.device).id

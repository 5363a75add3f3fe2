"""How often `tox -e gate` finds a slowdown of 5 % that was planted in a branch of this project, and how often it is wrong.

    tox -e trials -- FOLDER unchanged --runs 10     # a branch that changes no file: nothing is timed
    tox -e trials -- FOLDER comment --runs 10       # one more comment in what all cells load: all of them are timed
    tox -e trials -- FOLDER layer --runs 4          # extra work in a layer
    tox -e trials -- FOLDER adapter --runs 3        # in a runtime's adapter
    tox -e trials -- FOLDER dependency --runs 3     # in a package that a layer uses, of which the sides have two wheels
    tox -e trials -- FOLDER table                   # what became of all runs in FOLDER

Each kind has a clone of this checkout with a base and a head. How much work is 5 % follows from what `comment` measured, so
that comes first. Each run is kept in FOLDER, and counted by `table`, also those of earlier days.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from plumbline.harness import messages, timing
from plumbline.harness.statistics import wilson_interval
from plumbline.harness.studies.gate import COULD_NOT_TELL, REPORT, Report
from plumbline.harness.verdicts.regression import INCONCLUSIVE, REGRESSED, UNCHANGED, Judgement
from plumbline.harness.views.table import NOTHING, tabulated

SHARE = 0.05
ROOT = Path(__file__).parents[2]
EVERYONES = Path("models/__init__.py")
NET, ADAPTER = Path("models/architectures/resnet_cifar.py"), Path("harness/runtimes/onnxruntime.py")
LAYER_CELL, ADAPTER_CELL = "resnet20-dense-eager-fp32-b1", "resnet20-dense-onnxruntime-fp32-b1"
OLD_LAYER = "            relu=nn.ReLU(),\n            layer1=stage(16, 16, 1),"
NEW_LAYER = "            relu=Longer(),\n            layer1=stage(16, 16, 1),"
OLD_BUILD = "    return nn.Sequential(\n        OrderedDict(\n            conv1=nn.Conv2d(channels, 16, 3"
LONGER = """\
    class Longer(nn.ReLU):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling():
                {work}
            return super().forward(inputs)

"""
OLD_RUN = "        return self._session.run(self._outputs, {self._graph.input: placed})\n"
NEEDS = "dependencies = [\n"


class Clone:
    """A clone of this checkout, with a base and a head."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._git("clone", "--quiet", str(ROOT), str(folder), at=folder.parent)
        self._git("checkout", "--quiet", "-B", "base")

    def replace(self, file: Path, old: str, new: str) -> None:
        """Write `new` where `old` stands once."""
        text = (self.folder / file).read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{file}: expected {old!r} once, got it {text.count(old)} times; adapt this script")
        (self.folder / file).write_text(text.replace(old, new))

    def append(self, file: Path, text: str) -> None:
        """Write `text` at the end."""
        with (self.folder / file).open("a") as opened:
            opened.write(text)

    def commit(self, words: str, branch: str) -> None:
        """Commit everything on a branch."""
        self._git("checkout", "--quiet", "-B", branch)
        self._git("-c", "user.name=trial", "-c", "user.email=trial@localhost", "commit", "--quiet", "--allow-empty", "-am", words)

    def _git(self, *arguments: str, at: Path | None = None) -> None:
        subprocess.run(["git", *arguments], cwd=at or self.folder, check=True)


def unchanged(clone: Clone, known: dict[str, float]) -> None:
    """Commit nothing."""
    clone.commit("nothing", "head")


def comment(clone: Clone, known: dict[str, float]) -> None:
    """Add a comment to a file that all cells load."""
    clone.append(EVERYONES, "# nothing\n")
    clone.commit("a comment", "head")


def layer(clone: Clone, known: dict[str, float]) -> None:
    """Add work to one layer of ResNet-20."""
    _longer_layer(clone, f"for _ in range({_count(known, LAYER_CELL)}):\n                    pass")
    clone.commit("more work in a layer", "head")


def adapter(clone: Clone, known: dict[str, float]) -> None:
    """Add work to what calls ONNX Runtime."""
    loop = f"        for _ in range({_count(known, ADAPTER_CELL)}):\n            pass\n"
    clone.replace(ADAPTER, OLD_RUN, loop + OLD_RUN)
    clone.commit("more work in an adapter", "head")


def dependency(clone: Clone, known: dict[str, float]) -> None:
    """Let a layer of ResNet-20 call a package, whose version 2 does more work than its version 1."""
    for version, count in ((1, 0), (2, _count(known, LAYER_CELL))):
        _wheel(clone.folder.parent / "wheels", version, count)
    _longer_layer(clone, "plumbline_trial.work()", "import plumbline_trial\n    ")
    clone.replace(Path("pyproject.toml"), NEEDS, f'{NEEDS}    "plumbline-trial==1",\n')
    clone.commit("a package", "base")
    clone.replace(Path("pyproject.toml"), "plumbline-trial==1", "plumbline-trial==2")
    clone.commit("its next version", "head")


KINDS: dict[str, tuple[Callable[[Clone, dict[str, float]], None], str | None]] = {
    "unchanged": (unchanged, None),
    "comment": (comment, None),
    "layer": (layer, LAYER_CELL),
    "adapter": (adapter, ADAPTER_CELL),
    "dependency": (dependency, LAYER_CELL),
}


def _longer_layer(clone: Clone, work: str, imports: str = "") -> None:
    clone.replace(NET, OLD_LAYER, NEW_LAYER)
    clone.replace(NET, OLD_BUILD, f"    {imports}import torch\n\n{LONGER.format(work=work)}{OLD_BUILD}")


def _wheel(folder: Path, version: int, count: int) -> None:
    """Build a wheel of a package with one function that does so much work."""
    source = folder / f"source-{version}"
    source.mkdir(parents=True, exist_ok=True)
    (source / "plumbline_trial.py").write_text(f"def work() -> None:\n    for _ in range({count}):\n        pass\n")
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    (source / "pyproject.toml").write_text(f'{build}[project]\nname = "plumbline-trial"\nversion = "{version}"\n')
    subprocess.run([sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(source)], check=True)


def _count(known: dict[str, float], cell: str) -> int:
    """Return how many steps of a loop are SHARE of a cell's inference."""
    if (seconds := next((found for name, found in known.items() if name.startswith(cell)), None)) is None:
        raise SystemExit(f"expected a run of `comment` that timed {cell}, got {', '.join(known) or 'none'}; run `comment` first")
    steps = 1_000_000

    def loop() -> None:
        for _ in range(steps):
            pass

    return round(SHARE * seconds / timing.best((loop, timing.nothing))[0] * steps)


def reports(folder: Path, kind: str) -> list[Report]:
    """Return what the runs of a kind found."""
    return [messages.decode(path.read_bytes(), Report) for path in sorted(folder.glob(f"{kind}/run-*/{REPORT}"))]


def known_s(folder: Path) -> dict[str, float]:
    """Return the median inference of each cell in the runs of `comment`, in seconds."""
    found: dict[str, list[float]] = {}
    for report in reports(folder, "comment"):
        for row in report.rows:
            if row.base_s is not None:
                found.setdefault(row.name, []).append(row.base_s)
    return {name: median(seconds) for name, seconds in found.items()}


def run(folder: Path, kind: str, runs: int, options: list[str]) -> None:
    """Run `tox -e gate` so many times in the clone of a kind, which is made where it is not there."""
    at = folder / kind
    if not (at / "clone").exists():
        (at / "wheels").mkdir(parents=True, exist_ok=True)
        KINDS[kind][0](Clone(at / "clone"), known_s(folder))
    first = 1 + len(list(at.glob("run-*.txt")))
    environment = {**os.environ, "UV_FIND_LINKS": str(at / "wheels")}
    for number in range(first, first + runs):
        command = [str(Path(sys.executable).with_name("tox")), "-q", "-e", "gate", "--", "--base", "base"]
        command += ["--run-dir", str(at / f"run-{number:02}"), *options]
        with (at / f"run-{number:02}.txt").open("w") as output:
            code = subprocess.run(command, cwd=at / "clone", env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
        print(f"{kind} {number}: {code}", flush=True)


class Trial(NamedTuple):
    """What became of a run: of a cell in which work was planted (None: in none), and of those that it left alone.

    The cell is the first of those with the work that regressed, else that of which the work is 5 %: a budget may pay for some.
    """

    report: Report
    planted: Judgement | None
    by_mistake: list[str]

    @property
    def decided(self) -> bool:
        """Whether the gate could tell: of the planted cell, or of all where there is none."""
        if self.planted is None:
            return self.report.code != COULD_NOT_TELL
        return not self.report.distrust and self.planted.verdict != INCONCLUSIVE

    @property
    def found(self) -> bool:
        return self.decided and self.planted is not None and self.planted.verdict == REGRESSED

    @property
    def red_by_mistake(self) -> bool:
        return not self.report.distrust and bool(self.by_mistake)

    def row(self, *first: object) -> list[str]:
        effect = self.planted.effect if self.planted else None
        timed = [row for row in self.report.rows if row.judgement.verdict != UNCHANGED]
        unsure = sum(row.judgement.verdict == INCONCLUSIVE for row in timed)
        minutes = [f"{seconds / 60:.1f}" for seconds in (self.report.planned_s, self.report.timed_s, self.report.seconds)]
        return [
            *map(str, (*first, self.report.code)),
            self.planted.verdict if self.planted else NOTHING,
            NOTHING if effect is None else f"{effect:+.1%}",
            f"{unsure} of {len(timed)}",
            "; ".join(self.by_mistake) or NOTHING,
            *minutes,
            "; ".join(self.report.distrust) or NOTHING,
        ]


HEADS = [
    "kind",
    "run",
    "code",
    "planted",
    "shown",
    "inconclusive of timed",
    "red by mistake",
    "planned, min",
    "took",
    "in all",
    "distrust",
]


def trials(folder: Path, kind: str) -> list[Trial]:
    """Return what became of the runs of a kind."""
    cell = KINDS[kind][1]
    # the planted work is in other cells of that net or runtime, too, by another share
    touched = re.compile("$^" if cell is None else "-onnxruntime-" if kind == "adapter" else "^resnet20-.*-eager-")
    found = []
    for report in reports(folder, kind):
        judged = {row.name: row.judgement for row in report.rows}
        usual = next((one for name, one in judged.items() if cell and name.startswith(cell)), None)
        red = [name for name, one in judged.items() if one.verdict == REGRESSED]
        planted = next((judged[name] for name in red if touched.search(name)), usual)
        found.append(Trial(report, planted, [name for name in red if not touched.search(name)]))
    return found


def table(folder: Path, style: str = "simple") -> str:
    """Return what became of the runs: a row each, and the rates with their 95 % intervals."""
    rows, words = [], []
    for kind, (_, cell) in KINDS.items():
        found = trials(folder, kind)
        rows += [trial.row(kind, number) for number, trial in enumerate(found, 1)]
        decided = sum(trial.decided for trial in found)
        wrong, hits = sum(trial.red_by_mistake for trial in found), sum(trial.found for trial in found)
        counts = {"red by mistake": (wrong, len(found)), "told": (decided, len(found))}
        counts |= {} if cell is None else {"found": (hits, decided)}
        for what, (count, of) in counts.items():
            if of:
                low, high = wilson_interval(count, of)
                words.append(f"{kind}: {count} of {of} {what} (95 %: {low:.0%} to {high:.0%})")
    return "\n".join([tabulated(rows, HEADS, HEADS, style), "", *words])


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where runs are kept")
    parser.add_argument("kind", choices=[*KINDS, "table"])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--style", default="simple", help="of the table")
    arguments, options = parser.parse_known_args()  # the rest goes to the gate
    folder = arguments.folder.resolve()
    if arguments.kind != "table":
        run(folder, arguments.kind, arguments.runs, options or ["--budget-minutes", "5"])
    print(table(folder, arguments.style))


if __name__ == "__main__":
    main()

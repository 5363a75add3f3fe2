"""What asv and pytest-benchmark say of the same: a base, a head with the same code, and one in which ResNet-20 is 5 % slower.

    tox -e trials-others -- FOLDER --rounds 5
    tox -e trials-others -- FOLDER --rounds 0     # what became of all rounds in FOLDER

A round runs each tool three times, on the base, on the same code again, and on the slower head; in which order is chance. Both
time the nets of this project, in eager fp32, batch 1, in the same environment. Their verdicts are by their own rules: asv compare
with its factor of 1.1 and with 1.05, and pytest-benchmark's --benchmark-compare-fail of the statistic that its manual shows.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from plumbline.harness import timing
from plumbline.harness.statistics import wilson_interval
from plumbline.harness.views.table import tabulated

SHARE, SLOWED = 0.05, "resnet20"
NETS = ("mlp", "small_cnn", "resnet20", "vit_cifar")
SIDES = ("base", "same", "slower")
TOOLS = ("pytest-benchmark", "asv")
RULES = {"min:5%": "pytest-benchmark", "median:2.5%": "pytest-benchmark", "factor 1.1": "asv", "factor 1.05": "asv"}
NETS_FILE = f'''\
import torch

from plumbline import models

from .longer import COUNT


def net(name):
    model = models.find(name)
    arguments = model.arguments(model.image_size)
    built = model.build(**arguments).eval().requires_grad_(False)
    picture = torch.rand(1, arguments["channels"], model.image_size, model.image_size)

    def infer():
        with torch.inference_mode():
            if name == "{SLOWED}":
                for _ in range(COUNT):
                    pass
            return built(picture)

    return infer
'''
ASV_FILE = f"""\
from .nets import net


class Suite:
    params = {list(NETS)!r}

    def setup(self, name):
        self.infer = net(name)

    def time_net(self, name):
        self.infer()
"""
PYTEST_FILE = f"""\
import pytest

from benchmarks.nets import net


@pytest.mark.parametrize("name", {list(NETS)!r})
def test_net(benchmark, name):
    infer = net(name)
    infer()
    benchmark(infer)
"""


class Repository:
    """A repository with a commit for each of SIDES, and what the tools have stored of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commits = folder, {}
        if not folder.exists():
            self._make()
        for side in SIDES:
            self.commits[side] = self.run("git", "rev-parse", side).strip()

    def _make(self) -> None:
        (self.folder / "benchmarks").mkdir(parents=True)
        self.run("git", "init", "--quiet")
        files = {
            "benchmarks/nets.py": NETS_FILE,
            "test_nets.py": PYTEST_FILE,
            "benchmarks/__init__.py": "",
            "benchmarks/suite.py": ASV_FILE,
            "asv.conf.json": json.dumps(
                {"version": 1, "project": "nets", "repo": ".", "branches": ["HEAD"], "environment_type": "existing"}
            ),
            ".gitignore": "stored-*\n.benchmarks\n.asv\n__pycache__\n",
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        for side in SIDES:
            (self.folder / "benchmarks/longer.py").write_text(f"COUNT = {_count() if side == 'slower' else 0}\n")
            self.run("git", "add", ".")
            identity = ("-c", "user.name=trial", "-c", "user.email=trial@localhost")
            self.run("git", *identity, "commit", "--quiet", "--allow-empty", "-m", side)
            self.run("git", "tag", side)

    def run(self, *command: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command in the repository, and return what it prints."""
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode not in codes:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def measure(self, tool: str, side: str, number: int) -> None:
        """Let a tool time all nets of a side."""
        self.run("git", "checkout", "--quiet", side)
        if tool == "asv":
            config = {**json.loads((self.folder / "asv.conf.json").read_text()), "results_dir": f"stored-asv-{number}"}
            at = self.folder / f"stored-asv-{number}.json"
            at.write_text(json.dumps(config))
            asv = ("asv", "--config", at.name)
            self.run(*asv, "machine", "--yes", "--machine", "here")
            where = ("--machine", "here", "--environment", f"existing:{sys.executable}")
            self.run(*asv, "run", *where, "--set-commit-hash", self.commits[side])
        else:
            file = f"--benchmark-json=stored-pytest-{number}-{side}.json"
            self.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "test_nets.py")

    def slower(self, rule: str, side: str, number: int) -> set[str]:
        """Return the nets of which a rule says that a side is slower than the base."""
        name, _, value = rule.replace(" ", ":").partition(":")
        if RULES[rule] == "asv":
            options = ("--machine", "here", "--factor", value, "--only-changed")
            asv = ("asv", "--config", f"stored-asv-{number}.json", "compare", *options)
            told = self.run(*asv, self.commits["base"], self.commits[side])
            return {net for net in NETS for line in told.splitlines() if line.startswith("| +") and f"('{net}')" in line}
        limit = float(value.rstrip("%")) / 100
        base, other = (
            {found["params"]["name"]: found["stats"][name] for found in json.loads(path.read_text())["benchmarks"]}
            for path in (self.folder / f"stored-pytest-{number}-{which}.json" for which in ("base", side))
        )
        return {net for net in NETS if other[net] / base[net] - 1 > limit}


def _count() -> int:
    """Return how many steps of a loop are SHARE of the slowed net's inference."""
    import torch

    from plumbline import models

    model = models.find(SLOWED)
    arguments = model.arguments(model.image_size)
    assert model.build is not None
    net, picture = model.build(**arguments).eval(), torch.rand(1, arguments["channels"], model.image_size, model.image_size)
    steps = 100_000

    def infer() -> None:
        with torch.inference_mode():
            net(picture)

    def loop() -> None:
        for _ in range(steps):
            pass

    seconds, of_loop = timing.best((infer, timing.nothing), (loop, timing.nothing))
    return round(SHARE * seconds / of_loop * steps)


def table(repository: Repository, style: str) -> str:
    """Return how often each rule was right."""
    rounds = sorted(int(path.stem.rpartition("-")[2]) for path in repository.folder.glob("stored-asv-*.json"))
    rows = []
    for rule, tool in RULES.items():
        same = [repository.slower(rule, "same", number) for number in rounds]
        slower = [repository.slower(rule, "slower", number) for number in rounds]
        counts = {
            "red by mistake, of runs on the same code": sum(map(bool, same)),
            f"found, of runs with {SLOWED} slower by {SHARE:.0%}": sum(SLOWED in found for found in slower),
            "and another net called slower in those": sum(bool(found - {SLOWED}) for found in slower),
        }
        for what, count in counts.items():
            low, high = wilson_interval(count, len(rounds))
            rows.append([tool, rule, what, f"{count} of {len(rounds)}", f"{low:.0%} to {high:.0%}"])
    heads = ["tool", "rule", "what", "count", "95 %"]
    return tabulated(rows, heads, heads, style)


def main() -> None:
    """Run rounds, and print what became of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--style", default="simple", help="of the table")
    arguments = parser.parse_args()
    repository = Repository(arguments.folder.resolve() / "others")
    first = 1 + len(list(repository.folder.glob("stored-asv-*.json")))
    for number in range(first, first + arguments.rounds):
        took = {}
        for tool in random.sample(TOOLS, len(TOOLS)):
            began = time.monotonic()
            for side in random.sample(SIDES, len(SIDES)):
                repository.measure(tool, side, number)
            took[tool] = time.monotonic() - began
        print(f"round {number}: {', '.join(f'{tool} {seconds:.0f} s' for tool, seconds in took.items())}", flush=True)
    print(table(repository, arguments.style))


if __name__ == "__main__":
    main()

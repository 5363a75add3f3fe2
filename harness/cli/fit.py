"""`plumbline fit`: search compression, precision, runtime, batch and picture size for the best setting within a budget."""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbline.harness.cell import AXES
from plumbline.harness.cli import shared
from plumbline.harness.views.terminal import Progress
from plumbline.texts import positive, whole_number

PARENTS = (shared.LIMITS, shared.DATA, shared.STYLE)
PRETRAINED = "pretrained"  # --weights that torchvision and timm publish
USUAL = {
    "variant": "dense",
    "runtime": "all that are there",
    "precision": "all that the processor has, but tf32",
    "batch": "1",
    "image_size": "the model's usual one",
    "target": "cpu",
}


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", nargs="+", help="as in plumbline show; of several the best one is searched")
    parser.add_argument("--budget", metavar="NAME", help="limits of the file of budgets; an option for one of them goes first")
    parser.add_argument("--budgets", type=Path, metavar="FILE", help="another file of budgets (default: benchmarks/budgets.toml)")
    for axis, usual in USUAL.items():
        words = f"a {axis.replace('_', ' ')} to try; several with commas (default: {usual})"
        shared.add_axis(parser, axis, words)
    words = f"safetensors files (default: ROOT/weights, if any), or: {PRETRAINED}"
    parser.add_argument("--weights", metavar="DIR", help=words)
    parser.add_argument("--seconds", type=positive, default=1.0, metavar="S", help="of timing for each setting (default: 1)")
    parser.add_argument("--time-limit", type=positive, default=300.0, metavar="S", help="of a setting's process (default: 300)")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="keep the records here (default: runs/TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a search that was interrupted")
    parser.add_argument("--most", type=whole_number, default=5, metavar="N", help="settings that are shown (default: 5)")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for another session on this machine")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    """Run the command. Returns 1 where nothing fits."""
    from plumbline.harness.session import places
    from plumbline.harness.session.session import default_run_dir
    from plumbline.harness.studies import fit
    from plumbline.harness.verdicts import budget
    from plumbline.harness.views import recommendation

    places.load(places.FILE)
    named = {} if arguments.budget is None else budget.find(arguments.budget, arguments.budgets or budget.FILE).searched
    limits = {**named, **shared.limits(arguments)}
    if not limits:
        raise budget.BadBudget("expected --budget NAME, or a limit as --max-p99-ms 33, got none; plumbline fastest needs none")
    axes = shared.axes(arguments, AXES[1:])
    asked = fit.Asked(
        {"model": arguments.model, **axes},
        limits,
        arguments.by,
        arguments.allow,
        arguments.data,
        None if arguments.weights in (None, PRETRAINED) else Path(arguments.weights),
        arguments.weights == PRETRAINED,
        arguments.seconds,
        arguments.time_limit,
        arguments.wait,
    )
    folder = arguments.resume or arguments.run_dir or default_run_dir(Path.cwd())

    def say(text: str) -> None:
        progress("")
        print(text, flush=True)

    say(f"kept in {folder}; plumbline report {folder} shows it, --resume {folder} goes on")
    found = fit.search(asked, folder, arguments.resume is not None, say, progress)
    progress("")
    print("\n" + "\n".join(fit.summary(found)) + "\n")
    if found.answer is not None and found.answer.timed:
        text = recommendation.text([found.answer], found.question, arguments.most, arguments.style, untried=found.by_limit)
        print(text)
    else:
        nothing = "nothing was timed" if found.tried else "nothing fits: every setting was ruled out"
        print("\n".join([nothing, *(f"- {line}" for line in recommendation.without_trial(found.by_limit))]))
    if found.answer is not None and found.answer.best is not None:
        return 0
    if found.disturbed:
        words = f"- {found.disturbed} disturbed: whether they fit cannot be told; --resume {folder} measures them again"
        print(words)
    return 1

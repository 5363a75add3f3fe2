"""`plumbline`: what the suite can say about itself."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline import PlumblineError
from plumbline.harness.views import terminal

if TYPE_CHECKING:
    from plumbline.models import Model


def main() -> int:
    parser = argparse.ArgumentParser(prog="plumbline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser(
        "list", help="models, variants, runtimes, precisions, targets, data, tiers; what is missing here"
    )
    show = commands.add_parser("show", help="a model: layers, parameters, MACs, shapes, data, floors, source")
    show.add_argument("model", help="a name of the list, with +option=value; or timm:NAME, torchvision:NAME, ...")
    show.add_argument("--image-size", type=int, metavar="PIXELS", help="default: its usual one")
    counts = commands.add_parser("counts", help="every model counted by every route, beside what has been published")
    counts.add_argument("--markdown", action="store_true")
    for command in (listing, counts):
        command.add_argument("--matrix", type=Path, metavar="FILE", help="another matrix file")
    overhead = commands.add_parser("overhead", help="what the suite itself costs, measured on this machine")
    overhead.add_argument("--quick", action="store_true", help="fewer repeats: shows that it runs, not what it costs")
    overhead.add_argument(
        "--run", type=Path, metavar="RUN", help="take the shares of time from this run, instead of running the default tier"
    )
    table = commands.add_parser("table", help="the evaluation matrix of a run")
    table.add_argument("run", type=Path, help="a run directory")
    table.add_argument("--markdown", action="store_true")
    plugin = commands.add_parser("check-plugin", help="does a package's runtime, meter, model or variant keep to its contract?")
    plugin.add_argument("name", nargs="*", help="of its entry point, as NAME or KIND:NAME (default: all that are installed)")
    layers = commands.add_parser("layers", help="where the time of a cell goes, measured with pytest benchmarks --layers")
    layers.add_argument("run", type=Path, help="a run directory")
    layers.add_argument("cell", nargs="?", help="its id, or words of it, if the run has several")
    layers.add_argument("--against", metavar="CELL", help="another cell of the run: the difference, layer by layer")
    layers.add_argument("--markdown", action="store_true")
    fastest = commands.add_parser("fastest", help="the fastest correct way to run a model here, against eager fp32, in turns")
    fastest.add_argument("model", nargs="*", help="default: every model of the default tier, at its usual size")
    for axis in ("runtime", "precision"):
        fastest.add_argument(f"--{axis}", action="append", default=[], metavar="NAME", help="only this one, and others named so")
    fastest.add_argument("--variant", action="append", default=[], metavar="NAME", help="race this one, too, and others named so")
    fastest.add_argument("--batch", type=int, default=1, metavar="N")
    fastest.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the model's usual one")
    fastest.add_argument("--target", default="cpu", choices=("cpu", "cuda"))
    fastest.add_argument("--seconds", type=float, default=4.0, help="of timing for each way (default: 4)")
    fastest.add_argument("--data", type=Path, metavar="ROOT", help="real images and weights (default: $PLUMBLINE_DATA)")
    fastest.add_argument("--markdown", action="store_true")
    train = commands.add_parser("train", help="train a model by its recipe, or go on with it; benchmarks find the weights")
    train.add_argument("model", help="a name of the list, with +option=value (data, treatment, recipe, its own)")
    train.add_argument("--variant", default="dense", metavar="NAME")
    train.add_argument("--image-size", type=int, metavar="PIXELS", help="default: its usual one")
    train.add_argument("--data", type=Path, metavar="ROOT", help="default: $PLUMBLINE_DATA")
    train.add_argument("--recipe", metavar="NAME", help="of those that plumbline show MODEL names (default: usual)")
    for number, kind in (("epochs", int), ("seed", int), ("batch", int), ("learning-rate", float)):
        train.add_argument(f"--{number}", type=kind, metavar="N", help="instead of the recipe's")
    train.add_argument("--from", dest="start", type=Path, metavar="FILE", help="begin with the weights of this safetensors file")
    train.add_argument("--new-head", action="store_true", help="with --from: all but the last layer, for other classes")
    train.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    train.add_argument("--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help="besides each epoch (default: 60)")
    train.add_argument("--anew", action="store_true", help="forget what an earlier training of this kind has left")
    train.add_argument("--out", type=Path, metavar="DIR", help="put a copy of the weights there, to be given as --weights DIR")
    train.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for another session on this machine")
    compression = commands.add_parser("compression", help="what techniques of compression promise and deliver, with limits")
    compression.add_argument(
        "part", nargs="*", help="layers, pruning, mixer, structured, reduction, distillation, tier (default: all)"
    )
    compression.add_argument("--data", type=Path, metavar="ROOT", help="default: $PLUMBLINE_DATA")
    compression.add_argument("--run-dir", type=Path, default=Path("runs/compression"), metavar="DIR", help="of the tier; goes on")
    compression.add_argument("--seconds", type=float, default=4.0, help="of timing for each way (default: 4)")
    compression.add_argument("--table", action="store_true", help="run nothing; show what DIR holds")
    compression.add_argument("--markdown", action="store_true")
    compress = commands.add_parser("compress", help="write a compressed model, as small as it is, to a file that runs")
    compress.add_argument("model", help="a name of the list, with +option=value")
    compress.add_argument("variant", help="a chain of techniques, as prune90+tune+share+bits=4+huffman")
    compress.add_argument("--image-size", type=int, metavar="PIXELS", help="default: its usual one")
    compress.add_argument("--data", type=Path, metavar="ROOT", help="default: $PLUMBLINE_DATA")
    compress.add_argument("--weights", type=Path, metavar="DIR", help="of the dense model (default: ROOT/weights, or its recipe)")
    compress.add_argument(
        "--train-minutes", type=float, default=15, metavar="MIN", help="train no longer than that (default: 15)"
    )
    compress.add_argument("--out", type=Path, required=True, metavar="FILE")
    reproduce = commands.add_parser("reproduce", help="train what the studies trained, and put the figures beside theirs")
    reproduce.add_argument(
        "--run-dir", type=Path, default=Path("runs/reproduction"), metavar="DIR", help="goes on with what is there"
    )
    reproduce.add_argument("--data", type=Path, metavar="ROOT", help="default: $PLUMBLINE_DATA")
    reproduce.add_argument("--model", action="append", default=[], metavar="NAME", help="only this one, and others named so")
    reproduce.add_argument("--table", action="store_true", help="run nothing; show what DIR holds")
    reproduce.add_argument("--markdown", action="store_true")
    data = commands.add_parser("data", help="fetch data sets into a data root")
    data.add_argument("name", nargs="+", help="mnist, fashion_mnist, cifar10, cifar100")
    data.add_argument("--data", type=Path, required=True, metavar="ROOT")
    for stream in (sys.stdout, sys.stderr):
        terminal.readable(stream)
    arguments = parser.parse_args()
    commanded = {
        "list": _list,
        "show": _show,
        "counts": _counts,
        "overhead": _overhead,
        "table": _table,
        "layers": _layers,
        "fastest": _fastest,
        "check-plugin": _check_plugin,
        "train": _train,
        "data": _data,
        "reproduce": _reproduce,
        "compress": _compress,
        "compression": _compression,
    }[arguments.command]
    try:
        with _progress:
            code = commanded(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who read the output has seen enough: show MODEL | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PlumblineError as error:
        print(f"plumbline {arguments.command}: {error}", file=sys.stderr)
        return 2


_progress = terminal.Progress()


def _list(arguments: argparse.Namespace) -> int:
    from plumbline.harness.session import matrix
    from plumbline.harness.views import listing

    root = os.environ.get("PLUMBLINE_DATA")
    print(listing.everything(matrix.load(arguments.matrix or matrix.FILE), Path(root) if root else None))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from plumbline import models
    from plumbline.harness.session.matrix import MatrixError
    from plumbline.models import UnknownName

    try:
        print(_shown(models.find(arguments.model), arguments.image_size))
    except (MatrixError, UnknownName, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:
        if not models.is_outside(arguments.model):
            raise
        raise UnknownName(f"{arguments.model}: {type(error).__name__}: {error}") from error
    return 0


def _shown(model: Model, image_size: int | None) -> str:
    from plumbline.harness.session import matrix
    from plumbline.harness.views import listing

    size = model.image_size if image_size is None else image_size
    if (unfit := matrix.unfit(model, size)) is not None:
        raise matrix.MatrixError(unfit.reason)
    layers = model.formula(size)
    if layers is None:  # only torch can tell
        from plumbline.harness.probe.counts import count
        from plumbline.models.layers import Layer

        if sys.stderr.isatty():
            print(f"{model.name} has no formula: torch counts it, in some seconds", file=sys.stderr)
        counted = (Layer(**layer) for layer in count(model, size)["layers"])
        layers = tuple(layer for layer in counted if layer.macs or layer.parameters)
    return listing.one(model, size, layers)


def _counts(arguments: argparse.Namespace) -> int:
    from plumbline.harness.session import matrix
    from plumbline.harness.studies import census
    from plumbline.harness.views import listing

    started = time.perf_counter()
    tiers = matrix.load(arguments.matrix or matrix.FILE)
    counts = census.take(listing.sizes(tiers.values()), _progress)
    _progress("")
    print(census.table(counts, "github" if arguments.markdown else "simple"))
    wrong = census.wrong(counts)
    for line in wrong:
        print(line, file=sys.stderr)
    verdict = f"{len(wrong)} do not agree" if wrong else "all routes and published figures agree"
    print(f"{len(counts)} models and sizes in {time.perf_counter() - started:.1f} s; {verdict}", file=sys.stderr)
    return 1 if wrong else 0


def _overhead(arguments: argparse.Namespace) -> int:
    from plumbline.harness.studies.overhead import report

    missed = report(_progress, quick=arguments.quick, run=arguments.run)
    if missed:
        print(f"over the limit: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _table(arguments: argparse.Namespace) -> int:
    from plumbline.harness import journal
    from plumbline.harness.views.table import matrix

    print(matrix(journal.read(arguments.run), "github" if arguments.markdown else "simple"))
    return 0


def _check_plugin(arguments: argparse.Namespace) -> int:
    from plumbline.harness.studies import conformance

    named = [conformance.find(name) for name in arguments.name]
    named = named or [(kind, name) for kind, names in conformance.kinds().items() for name in names]
    if not named:
        print("no installed package announces a runtime, meter, model or variant; docs/extending.md shows how one does")
        return 0
    red = 0
    for kind, name, claims in conformance.check(named, _progress):
        print(f"{kind} {name}", flush=True)
        for claim in claims:
            _progress("")
            word, why = ("red", claim.wrong) if claim.wrong else ("skipped", claim.skipped) if claim.skipped else ("ok", None)
            print(f"  {word:7}  {claim.text}" + (f": {why}" if why else ""), flush=True)
            red += claim.wrong is not None
    print(f"{red} claims are red" if red else "every claim holds")
    return 1 if red else 0


def _layers(arguments: argparse.Namespace) -> int:
    from plumbline.harness import journal
    from plumbline.harness.views import layers

    records, style = journal.read(arguments.run), "github" if arguments.markdown else "simple"
    record = layers.select(records, arguments.cell)
    if arguments.against is None:
        print(layers.table(record, style))
    else:
        print(layers.difference(record, layers.select(records, arguments.against), style))
    return 0


def _fastest(arguments: argparse.Namespace) -> int:
    from plumbline.harness.session import matrix
    from plumbline.harness.studies import fastest

    names = arguments.model or list(dict.fromkeys(cell.model for cell in matrix.expand(matrix.load(matrix.FILE)["default"], {})))
    asked = fastest.Question(
        variants=arguments.variant,
        runtimes=arguments.runtime,
        precisions=arguments.precision,
        batch=arguments.batch,
        image_size=arguments.image_size,
        target=arguments.target,
        seconds=arguments.seconds,
        data=arguments.data,
    )
    style = "github" if arguments.markdown else "simple"
    fastest.report(names, asked, style, _progress)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from plumbline import models
    from plumbline.harness.settings import Settings
    from plumbline.harness.studies import train

    settings = Settings.here(arguments.data)
    reference = arguments.model + (f"+recipe={arguments.recipe}" if arguments.recipe else "")
    changed = {key: getattr(arguments, key) for key in ("epochs", "seed", "batch", "learning_rate")}
    asked = train.Question(
        image_size=arguments.image_size,
        variant=arguments.variant,
        changes={key: value for key, value in changed.items() if value is not None},
        start=arguments.start,
        new_head=arguments.new_head,
        device=arguments.device,
    )
    return train.command(
        asked.task(models.find(reference), settings),
        settings,
        anew=arguments.anew,
        out=arguments.out,
        checkpoint_s=arguments.checkpoint_every,
        wait_s=arguments.wait,
    )


def _compress(arguments: argparse.Namespace) -> int:
    from plumbline import models
    from plumbline.harness.settings import Settings
    from plumbline.harness.studies import compress

    settings = Settings.here(arguments.data, arguments.weights, train_minutes=arguments.train_minutes)
    model = models.find(arguments.model)
    return compress.command(model, arguments.image_size, arguments.variant, settings, arguments.out, _progress)


def _compression(arguments: argparse.Namespace) -> int:
    from plumbline.harness import journal
    from plumbline.harness.session.matrix import MatrixError
    from plumbline.harness.session.session import run_tier
    from plumbline.harness.studies import compression

    known = (*compression.PARTS, compression.TIER_PART)
    for name in arguments.part:
        if name not in known:
            raise MatrixError(f"no part {name!r}; known: {', '.join(known)}")
    style, code = "github" if arguments.markdown else "simple", 0
    chosen, tier = [name for name in arguments.part if name in compression.PARTS], compression.TIER_PART in arguments.part
    if not arguments.table and (chosen or not arguments.part):
        compression.report(chosen, arguments.data, arguments.seconds, style, _progress)
    if tier or not arguments.part:
        options = ["--data", str(arguments.data)] if arguments.data else []
        code = 0 if arguments.table else run_tier(compression.TIER, arguments.run_dir, options)
        print(compression.tables(journal.read(arguments.run_dir), style))
    return code


def _reproduce(arguments: argparse.Namespace) -> int:
    from plumbline.harness import journal
    from plumbline.harness.session.session import run_tier
    from plumbline.harness.studies import reproduction

    options = [option for name in arguments.model for option in ("--model", name)]
    options += ["--data", str(arguments.data)] if arguments.data else []
    code = 0 if arguments.table else run_tier(reproduction.TIER, arguments.run_dir, options)
    print(reproduction.tables(journal.read(arguments.run_dir), "github" if arguments.markdown else "simple"))
    return code


def _data(arguments: argparse.Namespace) -> int:
    from plumbline.models import DATASETS, UnknownName
    from plumbline.models.data.datasets import NoData

    known = [data.name for data in DATASETS.values() if data.fetch is not None]
    for name in arguments.name:
        if name not in known:
            raise UnknownName(f"no data set {name!r} that can be fetched; known: {', '.join(known)}")
    for name in arguments.name:
        fetch = DATASETS[name].fetch
        assert fetch is not None
        try:
            fetch(arguments.data)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            reason = f"{name} could not be fetched: {error}"
            raise NoData(f"{reason}. Offline: ROOT/{name} holds {DATASETS[name].wanted}; copy them there") from error
        print(f"{name} is in {arguments.data / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

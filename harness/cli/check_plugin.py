"""`plumbline check-plugin`: whether a package's runtime, meter, model or variant keeps to its contract."""

from __future__ import annotations

import argparse

from plumbline.harness.views.terminal import Progress


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("name", nargs="*", help="of its entry point, as NAME or KIND:NAME (default: all that are installed)")


def run(arguments: argparse.Namespace, progress: Progress) -> int:
    from plumbline.harness.studies import conformance

    named = [conformance.find(name) for name in arguments.name]
    named = named or [(kind, name) for kind, names in conformance.kinds().items() for name in names]
    if not named:
        print("no installed package announces a runtime, meter, model or variant; docs/extending.md shows how one does")
        return 0
    red = 0
    for kind, name, claims in conformance.check(named, progress):
        print(f"{kind} {name}", flush=True)
        for claim in claims:
            progress("")
            word, why = ("red", claim.wrong) if claim.wrong else ("skipped", claim.skipped) if claim.skipped else ("ok", None)
            print(f"  {word:7}  {claim.text}" + (f": {why}" if why else ""), flush=True)
            red += claim.wrong is not None
    print(f"{red} claims are red" if red else "every claim holds")
    return 1 if red else 0

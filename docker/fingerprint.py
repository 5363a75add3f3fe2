"""Write the fingerprint of an image into it, the last step of its build; or check which torch it holds, and end red if another.

The standard library alone, and Python 3.6: the agent's image has no more. Torch is not imported, only read: a build has no GPU.
"""

import argparse
import json
import platform
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

try:
    from importlib.metadata import distributions
except ImportError:  # Python before 3.8

    def distributions():
        """Return nothing: it cannot be asked."""
        return []


FILE = "/etc/plumbline-image.json"  # harness/machine.py reads it


def torch():
    """Return the versions of the torch that is installed and of its CUDA: None where there is none."""
    spec = find_spec("torch")
    if spec is None:
        return None, None
    found = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return str(found["__version__"]), found.get("cuda")


def versions():
    """Return the version of Python, of torch's CUDA and of each package."""
    found = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in distributions()}
    return dict(sorted(found.items()), python=platform.python_version(), **({"cuda": torch()[1]} if torch()[1] else {}))


def unexpected(wanted_torch, wanted_cuda, after):
    """Say that another torch is installed than was expected; None if it is the one."""
    got_torch, got_cuda = torch()
    got, wanted = [got_torch, got_cuda or "none"], [wanted_torch, wanted_cuda]
    if got == wanted:
        return None
    words = ["torch {} with CUDA {}".format(*pair) if pair[0] else "no torch" for pair in (wanted, got)]
    return "after {}: expected {}, got {}; {}".format(
        after,
        *words,
        "set EXPECTED_TORCH and EXPECTED_CUDA to it, or TORCH to another, or take out of REQUIREMENTS what replaced it",
    )


def main(arguments):
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="", help="the name of the base image")
    parser.add_argument("--base-digest", default="", help="its digest")
    parser.add_argument("--revision", default="", help="of plumbline, with a + where files differ from it")
    parser.add_argument("--expect-torch", metavar="VERSION", help="check this, and write nothing")
    parser.add_argument("--expect-cuda", metavar="VERSION", default="none", help="that of torch, or none")
    parser.add_argument("--after", metavar="STEP", default="the build", help="what was done last, for the message")
    parser.add_argument("--file", default=FILE, help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.expect_torch is not None:
        said = unexpected(options.expect_torch, options.expect_cuda, options.after)
        if said:
            print(said, file=sys.stderr)
        return 1 if said else 0
    for name in ("base_digest", "revision"):
        if not getattr(options, name):
            print(f"expected --build-arg {name.upper()}=..., got none; records will say null for it", file=sys.stderr)
    fingerprint = {
        "base": options.base,
        "base_digest": options.base_digest or None,
        "revision": options.revision or None,
        "versions": versions(),
    }
    Path(options.file).write_text(json.dumps(fingerprint, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

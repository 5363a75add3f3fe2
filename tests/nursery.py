"""The nursery of the tests: its process has also imported plumbline, what pytest needs, and a compiler that is ready.

What a process of it has imported says nothing; tests of that, and of how processes end, start an ordinary Python.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from plumbline.harness.boot import PRELOAD
from plumbline.harness.nursery import SCRIPT, Nursery, serve

PROBE = "plumbline.harness.probe"
IMPORTED = ("pytest", "tabulate", "psutil", "filelock", f"{PROBE}.server", f"{PROBE}.subject", f"{PROBE}.counts", *PRELOAD)
INDUCTOR = ("torch._inductor.codecache", "torch._inductor.compile_fx")  # and what compiles imports it for three seconds


def nursery(shared: Path) -> Nursery:
    """Start it; `shared` is the folder in which all nurseries of a run keep what inductor has made."""
    return Nursery([sys.executable, "-c", SCRIPT, __file__, str(shared), *IMPORTED])


def main(shared: str, *modules: str) -> None:
    """Serve with a compiler that is ready.

    Torch's inductor translates its headers beforehand, 20 s of a processor for each kind of program, and keeps what comes of
    it below the folder of temporary files that it finds when it is imported: the shared one, whatever a probe's is.
    """
    tempfile.tempdir = shared
    for name in INDUCTOR:
        import_module(name)
    tempfile.tempdir = None
    check_vectors_in(shared)
    sys.path.insert(0, str(Path(__file__).parent.parent))  # for the package of these tests alone, which plugins of theirs import
    import_module("tests")
    del sys.path[0]
    serve(*modules)


def check_vectors_in(folder: str) -> None:
    """Have inductor keep there what it compiles to see which vectors there are: 10 s of a processor, the same for all nets."""
    from torch._inductor.cpu_vec_isa import VecISA

    check = VecISA.check_build

    def kept(isa: VecISA, code: str) -> bool:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            return check(isa, code)
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before

    VecISA.check_build = kept  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)

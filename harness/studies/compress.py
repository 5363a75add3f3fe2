"""`plumbline compress`: a compressed net as a file, wherever it is made; it is built again from nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from plumbline.harness.messages import Compress
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import Connection, compressed
from plumbline.harness.studies.train import check
from plumbline.harness.target import at


def command(request: Compress, progress: Callable[[str], None]) -> int:
    """Have the probe compress a trained model and write it, and say how large it is. Returns the exit code.

    Raises MatrixError, BadPlace, CellEnded and Busy.
    """
    cell = request.cell
    check(cell)
    if at(cell.place) is not None:
        raise matrix.MatrixError(f"--out names a file of this machine, got --target {cell.target}; do it there")
    if matrix.find(cell.model).file is not None:
        raise matrix.MatrixError(f"{cell.model} is an ONNX file, and cannot be compressed; expected a torch model")
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "probe.log").open("wb") as log:
        connection = Connection(log, progress=progress, place=places.of(cell.target), lock_s=0.0)  # it may train
        try:
            of = compressed(connection, request)
        finally:
            connection.close()
    progress("")
    assert of.bytes is not None, "a file that was written has a size"
    left = f"{of.parameters_nonzero:,} of {of.parameters_dense:,} parameters left"
    print(f"{cell.model} at {cell.image_size} pixels, {cell.variant}: {left}")
    for stage, count in (of.stages or {"dense": of.bytes_dense, "compressed": of.bytes}).items():
        print(f"{stage:>10}: {count:>13,} bytes ({of.bytes_dense / count:.1f}x smaller)")
    load = f"plumbline.models.compression.stored.load(plumbline.models.find({cell.model!r})"
    print(f"{request.out}: {load}, {cell.image_size}, Path({request.out!r}))")
    return 0

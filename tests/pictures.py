"""Data sets as files, without real pictures."""

from __future__ import annotations

import struct
from pathlib import Path


def idx_files(root: Path, name: str = "MNIST", folder: str = "mnist") -> Path:
    """MNIST without pictures: files of the right length, full of ones."""
    raw = root / folder / name / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        for kind, header, size in (
            ("images-idx3", struct.pack(">4I", 2051, count, 28, 28), count * 784),
            ("labels-idx1", struct.pack(">2I", 2049, count), count),
        ):
            content = bytes(range(10)) * (size // 10) if size == count else bytes([1]) * size
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + content)
    return raw

"""Deep Compression's file: where the weights are, as gaps; which value each shares; both in Huffman's code.

A container of its own: as tensors of a safetensors file the streams would have names and offsets in plain JSON, which makes
the coded ResNet-20 (prune90+share) larger by two thirds, 58,918 bytes instead of 35,100.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from plumbline.models.training.checkpoint import BadCheckpoint

MAGIC = b"plumbline coded weights 1\n"
GAP_OVERFLOW = 255  # 255 zeros, no weight follows yet (8-bit gaps; Han et al. 2016, "Deep compression", section 2)
MAX_VALUES = 256  # that a layer's weights may share


def encode(tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> tuple[bytes, dict[str, int]]:
    """Return a file's bytes, of which `decode` makes the same tensors and facts, bit by bit, and what each stage would take.

    Of a matrix or kernel only what is not zero is kept: how many zeros lie before it, in a byte, and which of the values that the
    layer has (Han et al. 2016, Deep compression, sections 2 to 4; gaps of 8 bits). Both go through Huffman's code, by zlib
    (RFC 1951, strategy "Huffman only"). What has more than 256 values, and biases, statistics and the like, is kept as it is.
    Stages, in bytes: `dense`; `pruned`, values and gaps; `shared`, numbers of values in whole bits, and gaps; `coded`, the file.
    """
    entries: list[dict[str, Any]] = []
    streams: list[bytes] = []
    stages = {"dense": 0, "pruned": 0, "shared": 0, "coded": 0}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().flatten()
        raw = flat.view(torch.uint8).numpy()
        entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "type": str(tensor.dtype).removeprefix("torch.")}
        stages["dense"] += raw.nbytes
        words = raw.view(f"u{flat.element_size()}")  # bits, so that -0.0 and NaN come back as they were
        values = numpy.unique(words[words != 0]) if tensor.ndim > 1 and tensor.is_floating_point() else None
        if values is None or not _saves(words):
            entry["kept"] = "as it is"
            parts = [raw.tobytes()]
            stages["pruned"] += raw.nbytes
            stages["shared"] += raw.nbytes
        else:
            where = numpy.flatnonzero(words)
            gaps, real = _gaps(where)
            stages["pruned"] += gaps.nbytes + where.size * flat.element_size()
            if values.size <= MAX_VALUES:
                entry["kept"], entry["values"] = "shared", values.size
                numbers = numpy.zeros(gaps.size, numpy.uint8)
                numbers[real] = numpy.searchsorted(values, words[where])
                parts = [values.tobytes(), _huffman(gaps.tobytes()), _huffman(numbers[real].tobytes())]
                bits = max(1, (values.size - 1).bit_length())
                stages["shared"] += gaps.nbytes + -(-where.size * bits // 8) + values.nbytes
            else:
                entry["kept"] = "pruned"
                parts = [_huffman(gaps.tobytes()), words[where].tobytes()]
                stages["shared"] += gaps.nbytes + where.size * flat.element_size()
        entry["bytes"] = [len(part) for part in parts]
        entries.append(entry)
        streams += parts
    header = zlib.compress(json.dumps({"facts": facts or {}, "tensors": entries}, separators=(",", ":")).encode(), 9)
    body = struct.pack("<I", len(header)) + header + b"".join(streams)
    file = MAGIC + hashlib.sha256(body).digest() + body
    return file, {**stages, "coded": len(file)}


def decode(file: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file. Raises `BadCheckpoint` where it is no such file, cut off, or changed."""
    start = len(MAGIC) + hashlib.sha256().digest_size
    body = file[start:]
    if not file.startswith(MAGIC):
        raise BadCheckpoint(f"is no file of coded weights: expected it to begin with {MAGIC!r}, got {file[: len(MAGIC)]!r}")
    if not body or hashlib.sha256(body).digest() != file[len(MAGIC) : start]:
        raise BadCheckpoint(f"was cut off or changed: its {len(body)} bytes have another SHA-256 than the one it names")
    (length,) = struct.unpack_from("<I", body)
    header, at = json.loads(zlib.decompress(body[4 : 4 + length])), 4 + length
    tensors = {}
    for entry in header["tensors"]:
        kind = getattr(torch, entry["type"])
        size = kind.itemsize
        parts = []
        for count in entry["bytes"]:
            parts.append(body[at : at + count])
            at += count
        if entry["kept"] == "as it is":
            words = numpy.frombuffer(parts[0], f"u{size}").copy()
        else:
            words = numpy.zeros(int(numpy.prod(entry["shape"])), f"u{size}")
            if entry["kept"] == "shared":
                values = numpy.frombuffer(parts[0], f"u{size}")
                found = values[numpy.frombuffer(_unhuffman(parts[2]), numpy.uint8)]
                gaps = parts[1]
            else:
                found = numpy.frombuffer(parts[1], f"u{size}")
                gaps = parts[0]
            words[_places(numpy.frombuffer(_unhuffman(gaps), numpy.uint8))] = found
        tensors[entry["name"]] = torch.from_numpy(words.view(numpy.uint8)).view(kind).reshape(entry["shape"])
    return tensors, header["facts"]


def _saves(words: Any) -> bool:
    """Whether leaving out the zeros, or sharing, takes less than all of them."""
    zeros = words.size - numpy.count_nonzero(words)
    return bool(zeros * words.itemsize > words.size or numpy.unique(words[words != 0][: 1 << 16]).size <= MAX_VALUES)


def _gaps(where: Any) -> tuple[Any, Any]:
    """Return the zeros before each place, in bytes with `GAP_OVERFLOW` where it takes more, and which bytes a weight follows."""
    zeros = numpy.diff(where, prepend=-1) - 1
    far = zeros // GAP_OVERFLOW
    gaps = numpy.full(where.size + int(far.sum()), GAP_OVERFLOW, numpy.uint8)
    real = numpy.cumsum(far + 1) - 1
    gaps[real] = zeros % GAP_OVERFLOW
    return gaps, real


def _places(gaps: Any) -> Any:
    """The places that `_gaps` made its bytes of."""
    real = gaps != GAP_OVERFLOW
    return numpy.cumsum(gaps.astype(numpy.int64) + real)[real] - 1


def _huffman(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush()


def _unhuffman(data: bytes) -> bytes:
    return zlib.decompress(data, -15)

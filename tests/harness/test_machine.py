"""What is known of a machine."""

from __future__ import annotations

import pytest

from plumbline.harness import machine


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ("sse2 avx avx2 fma", "AVX2"),
        ("avx avx2 avx_vnni", "AVX2 with VNNI"),
        ("avx2 avx512f avx512_vnni avx512_bf16", "AVX-512 with VNNI and bf16"),
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_int8 avx512_fp16", "AVX-512 with VNNI, AMX, bf16 and fp16"),
        ("fp asimd", "NEON"),
        ("fp asimd asimdhp asimddp i8mm bf16 sve", "SVE with dot products, i8mm, bf16 and fp16"),
        ("", "no known vectors"),
    ],
)
def test_processors_are_named_by_their_kind(flags: str, kind: str) -> None:
    assert machine.cpu_class(flags.split()) == kind

"""Sparse layers against their dense, masked twins."""

from __future__ import annotations

import math
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from plumbline.harness import timing
from plumbline.models.compression import kernel, sparse
from plumbline.models.compression.sparse import (
    RowMajorLinear,
    SemiStructuredLinear,
    SparseConv2d,
    SparseLinear,
    densified,
    settle,
    settled,
    sparsified,
)  # fmt: skip
from plumbline.models.compression.unstructured import prune

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
sparsities = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
kinds = st.sampled_from(list(TOLERANCE))


def masked(layer: nn.Linear | nn.Conv2d, sparsity: float, seed: int, empty_row: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        layer.weight.mul_(torch.rand(layer.weight.shape, generator=generator) >= sparsity)
        if empty_row:
            layer.weight[0] = 0


def close(came: Tensor, wanted: Tensor, kind: torch.dtype, terms: int) -> bool:
    assert came.dtype == wanted.dtype == kind
    assert came.shape == wanted.shape
    return bool(torch.allclose(came.double(), wanted.double(), rtol=TOLERANCE[kind], atol=TOLERANCE[kind] * math.sqrt(terms + 1)))


@settings(deadline=None)
@given(
    outs=st.integers(1, 40), ins=st.integers(1, 40), rows=st.integers(0, 70), sparsity=sparsities, kind=kinds, bias=st.booleans(),
    empty_row=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_sparse_layer_is_its_dense_twin(
    outs: int, ins: int, rows: int, sparsity: float, kind: torch.dtype, bias: bool, empty_row: bool, seed: int
) -> None:
    dense = nn.Linear(ins, outs, bias=bias)
    masked(dense, sparsity, seed, empty_row)
    layer = SparseLinear.of(dense)
    assert layer.values.numel() == int(dense.weight.count_nonzero())
    assert torch.equal(layer.dense().weight, dense.weight)
    inputs = torch.randn(rows, ins, generator=torch.Generator().manual_seed(seed + 1)).to(kind)
    with torch.no_grad():
        wanted = dense.to(kind).double()(inputs.double()).to(kind)
        assert close(layer.to(kind)(inputs), wanted, kind, ins)


@settings(deadline=None, max_examples=50)
@given(
    channels=st.integers(1, 6), outs=st.integers(1, 8), size=st.integers(3, 9), count=st.integers(0, 3),
    kernel_size=st.sampled_from([1, 2, 3]), stride=st.sampled_from([1, 2]), padding=st.sampled_from([0, 1]),
    dilation=st.sampled_from([1, 2]), sparsity=sparsities, seed=st.integers(0, 99),
)  # fmt: skip
def test_a_sparse_convolution_is_its_dense_twin(
    channels: int,
    outs: int,
    size: int,
    count: int,
    kernel_size: int,
    stride: int,
    padding: int,
    dilation: int,
    sparsity: float,
    seed: int,
) -> None:
    if dilation * (kernel_size - 1) + 1 > size + 2 * padding:
        return
    dense = nn.Conv2d(channels, outs, kernel_size, stride, padding, dilation)
    masked(dense, sparsity, seed, empty_row=False)
    inputs = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    layer = SparseConv2d.of(dense)
    with torch.no_grad():
        assert close(layer(inputs), dense(inputs), torch.float32, 9 * channels)
        assert torch.equal(layer.dense()(inputs), dense(inputs))


@settings(deadline=None, max_examples=40)
@given(outs=st.integers(1, 12), ins=st.integers(1, 12), rows=st.integers(0, 20), sparsity=sparsities, seed=st.integers(0, 99))
def test_gradients_are_those_of_the_twin(outs: int, ins: int, rows: int, sparsity: float, seed: int) -> None:
    dense = nn.Linear(ins, outs).double()
    masked(dense, sparsity, seed, empty_row=True)
    layer = SparseLinear.of(dense)
    inputs = torch.randn(rows, ins, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    weighting = torch.randn(rows, outs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    (layer(ours) * weighting).sum().backward()
    (dense(theirs) * weighting).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad)
    assert layer.bias is not None and torch.allclose(layer.bias.grad, dense.bias.grad)  # type: ignore[arg-type]
    where = dense.weight.nonzero(as_tuple=True)
    assert torch.allclose(layer.values.grad, dense.weight.grad[where])  # type: ignore[arg-type,index]


def test_without_a_compiler_the_product_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = nn.Linear(30, 20)
    masked(dense, 0.7, 0, empty_row=True)
    inputs, layer = torch.randn(4, 5, 30), SparseLinear.of(dense)
    monkeypatch.setattr(kernel, "missing", lambda: "there is no C compiler")
    monkeypatch.setattr(kernel, "product", None)
    with torch.no_grad():
        assert torch.allclose(layer(inputs), dense(inputs), atol=1e-5)


def test_a_missing_or_broken_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for compiler, words in (("/nowhere/cc", "/nowhere/cc"), ("false", "could not compile kernel.c")):
        monkeypatch.setenv("CC", compiler)
        kernel.load.cache_clear()
        with pytest.raises(kernel.NoKernel, match=words):
            kernel.load()
    kernel.load.cache_clear()


@pytest.mark.skipif(kernel.missing() is not None, reason=str(kernel.missing()))
@settings(deadline=None)
@given(
    width=st.integers(1, 300),
    sparsity=sparsities,
    activation=st.sampled_from(kernel.ACTIVATIONS),
    seed=st.integers(0, 99),
    layout=st.sampled_from(["rows", "columns", "part of rows", "part of columns", "lines"]),
)
def test_the_kernel_has_every_width_activation_and_layout(
    width: int, sparsity: float, activation: str, seed: int, layout: str
) -> None:
    dense = nn.Linear(17, 9)
    masked(dense, sparsity, seed, empty_row=True)
    layer = SparseLinear.of(dense)
    wide = 3 * torch.randn(17 + 3, width + 20, generator=torch.Generator().manual_seed(seed))
    inputs = {
        "rows": lambda: wide[:17, :width].contiguous(),
        "columns": lambda: wide[:17, :width].t().contiguous().t(),
        "part of rows": lambda: wide[3:, 20:],  # up to the very last number of the storage
        "part of columns": lambda: wide.t().contiguous().t()[3:, 20:],
        "lines": lambda: kernel._in_lines(wide[:17, :width], -(-width // kernel.LINE) * kernel.LINE)[:, :width],
    }[layout]()
    assert inputs.shape == (17, width)
    with torch.no_grad():
        came = kernel.product(layer.rows, layer.columns, layer.values, layer.bias, inputs, activation)
        summed = dense.weight.double() @ inputs.double() + dense.bias.double().unsqueeze(1)
    wanted = {"none": lambda x: x, "relu": functional.relu, "gelu": functional.gelu}[activation](summed)
    assert torch.allclose(came.double(), wanted, atol=2e-5)


@pytest.mark.parametrize(("numbers", "lines"), [(2 * kernel.LINE * 5, True), (2 * kernel.LINE * 5 - 1, False)])
def test_a_row_without_the_rest_of_its_line_is_not_read_to_its_end(numbers: int, lines: bool) -> None:
    rows = torch.empty(numbers).as_strided((5, 20), (2 * kernel.LINE, 1))
    assert kernel._begins_lines(rows, 2 * kernel.LINE) is lines


@pytest.mark.skipif(kernel.missing() is not None, reason=str(kernel.missing()))
def test_gelu_is_right_from_end_to_end() -> None:
    one, inputs = SparseLinear.of(nn.Linear(1, 1, bias=False)), torch.linspace(-100, 100, 200_001)
    special = torch.tensor([float("nan"), float("inf"), -5.4, 5.4])
    with torch.no_grad():
        given = torch.cat([inputs, special]).unsqueeze(0)
        came = kernel.product(one.rows, one.columns, torch.ones(1), None, given, "gelu").squeeze(0).double()
    wanted = functional.gelu(given.squeeze(0).double())
    assert torch.isnan(came[-4]) and came[-3] == float("inf")
    assert torch.allclose(came[:-4], wanted[:-4], rtol=2e-7, atol=1.5e-6)
    near = inputs.abs() < 1
    assert torch.allclose(came[:-4][near], wanted[:-4][near], rtol=0, atol=2e-7)


X86 = platform.machine().lower() in ("x86_64", "amd64")
AVX512 = "avx512f" in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "").split()
AVX2 = X86 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.mark.parametrize(
    ("processor", "bytes_"),
    [("x86-64", 16), ("x86-64-v3", 32), ("x86-64-v4", 64), ("x86-64-v3 -D__AVX512F__", 64), ("aarch64", 16)],
)
def test_the_kernel_has_the_processors_vectors_and_is_right_with_them(processor: str, bytes_: int, tmp_path: Path) -> None:
    """Those of AVX-512 where there is none by the compiler, which takes them apart; NEON's by emulation."""
    if processor == "aarch64":
        here = platform.machine() == "aarch64"
        compiler = shutil.which("gcc" if here else "aarch64-linux-gnu-gcc")
        command, run = [str(compiler), "-static"], [] if here else ["qemu-aarch64-static"]
        if compiler is None or not (here or shutil.which(run[0])):
            pytest.skip("NEON is emulated by aarch64-linux-gnu-gcc and qemu-aarch64-static, which are not here")
    else:
        compiler = shutil.which("gcc")
        command, run = [str(compiler), *f"-march={processor}".split()], []
        if not X86 or compiler is None:
            pytest.skip("these vectors need an x86 processor and gcc")
        if (processor == "x86-64-v4" and not AVX512) or (processor.startswith("x86-64-v3") and not AVX2):
            pytest.skip(f"this processor is no {processor}")
    program = tmp_path / "driver"
    sources = ["-include", str(kernel.SOURCE), str(Path(__file__).parents[2] / "kernel_driver.c")]
    subprocess.run([*command, "-O3", "-Wno-psabi", *sources, "-o", str(program), "-lm"], check=True, timeout=120)
    came = subprocess.run([*run, str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert (came.stdout.strip(), came.returncode) == (str(bytes_), 0)


@pytest.mark.skipif(not X86 or kernel.missing() is not None, reason="only x86 has several widths of vectors")
def test_the_kernel_takes_no_wider_vectors_than_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = {}
    for capability in ("DEFAULT", "AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        kernel.load.cache_clear()
        kernel.load()
        flags[capability] = kernel._processor()[1:]
    kernel.load.cache_clear()
    assert flags == {"DEFAULT": ["-mno-avx"], "AVX2": ["-mno-avx512f"], "AVX512": []}
    assert len(list(tmp_path.rglob("*.so"))) == 3  # none is taken for another


@pytest.mark.skipif(kernel.missing() is not None, reason=str(kernel.missing()))
def test_the_kernel_shares_torchs_threads() -> None:
    assert torch._C.has_openmp
    assert b"GOMP_parallel" in Path(kernel.load()._name).read_bytes()  # else it was compiled anew, without threads


def test_channel_major_stays_so_between_sparse_layers() -> None:
    layer = SparseLinear.of(nn.Linear(30, 20))
    with torch.no_grad():
        hidden = functional.gelu(layer(torch.randn(2, 7, 30)))
    assert hidden.shape == (2, 7, 20)
    assert hidden.movedim(-1, 0).is_contiguous()


def test_what_another_module_reads_stays_dense() -> None:
    net = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(8, 8))
    found = [
        type(module) for module in sparsified(net).modules() if isinstance(module, (sparse.CompressedRows, nn.Linear, nn.Conv2d))
    ]
    assert found.count(SparseLinear) == 1
    assert nn.Conv2d in found
    with pytest.raises(ValueError, match="one group"):
        SparseConv2d.of(nn.Conv2d(4, 4, 3, groups=4))


def test_two_of_four_is_for_gpus_and_only_where_two_are_zero() -> None:
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10)).eval(), torch.randn(3, 64)
    with pytest.raises(ValueError, match=r"expected two of four weights to be zero, as prune50\+pattern=2:4 leaves them"):
        sparsified(net, "2:4")
    halved = prune(net, 0.5, pattern="2:4")
    compressed = sparsified(halved, "2:4")
    assert [type(module) for module in compressed.children()] == [SemiStructuredLinear, nn.Linear]
    with torch.no_grad():
        assert torch.equal(densified(compressed)(inputs), halved(inputs))
        with pytest.raises(sparse.NoProduct, match=r"expected an NVIDIA GPU of compute capability 8.0"):
            settle(compressed, inputs, race=timing.best)


def test_layers_that_gain_nothing_are_dense_again_and_the_function_stays() -> None:
    torch.manual_seed(0)
    first = nn.Linear(64, 128)
    masked(first, 0.99, 0, empty_row=False)
    net = nn.Sequential(first, nn.GELU(), nn.Linear(128, 64)).eval()
    inputs = torch.randn(16, 64)

    def race(ours: Any, theirs: Any) -> tuple[float, float]:
        (layer, _), (dense, _) = ours, theirs
        return float(layer.func.values.numel()), 0.1 * dense.func.weight.numel()

    compressed, again = sparsified(net), sparsified(net)
    with torch.no_grad():
        wanted = net(inputs)
        kept = settle(compressed, inputs, race=race)
        came = compressed(inputs)
    assert kept == ["0"]
    settled(again, kept)  # the same choice is made again without a clock
    assert str(again) == str(compressed)
    with torch.no_grad():
        assert torch.equal(again(inputs), came)
    zeros, activation, last = compressed.children()
    assert isinstance(zeros, SparseLinear)
    assert zeros.activation == "gelu"
    assert isinstance(activation, nn.Identity)
    assert isinstance(last, nn.Linear)
    assert torch.allclose(came, wanted, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(densified(compressed)(inputs), wanted, atol=1e-4)


def test_the_studys_layer_is_there_to_be_compared_with() -> None:
    dense = nn.Linear(10, 6)
    masked(dense, 0.5, 0, empty_row=False)
    inputs = torch.randn(3, 10)
    with torch.no_grad():
        assert torch.allclose(RowMajorLinear.of(dense)(inputs), dense(inputs), atol=1e-6)
        assert torch.equal(RowMajorLinear.of(dense).dense()(inputs), dense(inputs))


def test_a_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected inputs of shape \(..., 3\), got \(2, 4\)"):
        SparseLinear.of(nn.Linear(3, 3))(torch.zeros(2, 4))

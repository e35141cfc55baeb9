"""The Triton kernels, in processes of their own: Triton reads TRITON_INTERPRET once, when it is first imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from matryo.sae.kernels import decode_losses, switch, use
from matryo.sae.kernels.entries import Entries

ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (it has builds for Linux only)"
)

COMPILED = """
import sys
import matryo, torch, matryo.sae.kernels
before = "triton" in sys.modules
import matryo.sae.nn.topk
assert before == ("triton" in sys.modules) == False, "importing the kernels imported Triton"
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from matryo.sae.kernels import triton_sums

def check(kernel, target, asm, element, accumulator, stride, columns=triton_sums.BLOCK_COLUMNS):
    blocks = {"ACC": accumulator, "ENTRIES": triton_sums.BLOCK_ENTRIES, "COLUMNS": columns}
    types = {"index": "*i64", "start": "*i64", "d": "i32", **dict.fromkeys(blocks, "constexpr")}
    strides = {name: stride for name in kernel.arg_names if name.endswith("stride")}
    signature = {name: (types | strides).get(name, f"*{element}") for name in kernel.arg_names}
    constants = {(kernel.arg_names.index(name),): value for name, value in blocks.items()}
    code = triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=constants), target=target).asm[asm]
    assert "atom" not in code, "sums must not depend on the order of threads"

for kernel in (triton_sums._sum_bags, triton_sums._dot_entries):
    check(kernel, GPUTarget("cuda", 80, 32), "ptx", "fp32", tl.float32, "i32")
    check(kernel, GPUTarget("cuda", 90, 32), "ptx", "bf16", tl.float32, "i64", columns=1)
    check(kernel, GPUTarget("hip", "gfx942", 64), "amdgcn", "fp64", tl.float64, "i32")
one = torch.ones(1, dtype=torch.long)
try:
    triton_sums.weighted_sums(torch.ones(2, 3), one, torch.tensor([0, 1]), torch.ones(1))
except ValueError as error:
    print(error)
"""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@needs_triton
def test_the_kernels_equal_the_torch_path_under_the_interpreter() -> None:
    cases = "tests/sae/kernels/triton_cases.py"
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cases, TRITON_INTERPRET="1")
    summary = done.stdout.strip().splitlines()[-1]
    assert "passed" in summary and "skipped" not in summary, done.stdout


@needs_triton
def test_the_kernels_compile_without_atomics_and_refuse_a_cpu(tmp_path: Path) -> None:
    """For two generations of NVIDIA GPUs and one of AMD's: Triton's compiler is stricter than its interpreter."""
    done = run("-c", COMPILED, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="1")
    assert done.stdout == (
        "Triton kernels were given tensors on cpu; expected cuda: move the SAE there, or go back with "
        'matryo.sae.kernels.use("torch")\n'
    )
    assert list(tmp_path.rglob("*.cubin")) and list(tmp_path.rglob("*.hsaco"))


def test_auto_is_the_default_and_a_block_ends_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch.importlib.util, "find_spec", lambda name: object())
    assert switch.chosen() == "auto"
    with use("triton"):
        with use("torch"):
            assert switch.chosen() == "torch"
        assert switch.chosen() == "triton"
    with pytest.raises(RuntimeError), use("triton"):
        raise RuntimeError
    assert switch.chosen() == "auto"
    before = use("triton")
    assert switch.chosen() == "triton"
    before.__exit__(None, None, None)
    assert switch.chosen() == "auto"


def test_a_backend_that_cannot_be_used_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown kernel backend 'cuda': expected one of auto, torch, triton"):
        use("cuda")
    monkeypatch.setattr(switch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match="needs the package triton, which is not installed; expected auto or torch, or install"
    ):
        use("triton")
    assert switch.chosen() == "auto"


def test_the_switch_reaches_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "_chosen", "triton")
    monkeypatch.setitem(sys.modules, "matryo.sae.kernels.triton_sums", None)
    entries = Entries.from_pairs(*torch.tensor([[0, 1], [1, 0]]), torch.ones(2), n_rows=2, n_latents=3)
    with pytest.raises(ImportError):
        decode_losses(entries.value, entries, torch.ones(3, 4), torch.ones(4), torch.ones(2, 4), (3,))

"""numba and PyTorch in one process."""

import subprocess
import sys


def test_starting_numba_leaves_pytorchs_number_of_threads() -> None:
    """numba's first parallel loop would set it to the number of cores, and products would round otherwise."""
    program = (
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from matryo.sae.kernels.fused import keep_largest\n"
        "keep_largest(torch.ones(2, 3), 1)\n"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"], done.stderr

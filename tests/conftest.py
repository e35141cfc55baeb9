"""Shape annotations are checked at run time in the tests, and only there; PyTorch uses one thread per process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook(["matryo.sae.nn", "matryo.sae.kernels", "matryo.sae.metrics"], "beartype.beartype")

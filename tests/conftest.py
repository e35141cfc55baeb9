"""Shape annotations are checked at run time in the tests, and only there; PyTorch uses one thread per process."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A job started in the background by a shell ignores Ctrl-C, and so would every process the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from jaxtyping import install_import_hook

install_import_hook(["matryo.sae.nn", "matryo.sae.kernels", "matryo.sae.metrics"], "beartype.beartype")

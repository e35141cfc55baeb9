"""Training in several processes: rows of a batch, latents of a dictionary, or autoencoders of a grid are shared out.

Started by `torchrun`; PyTorch's own collectives carry everything (gloo on CPUs, nccl on CUDA).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

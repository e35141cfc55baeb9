"""What every process of a session does: the jobs it is given, one after another. torchrun starts this file."""

import sys
from pathlib import Path

import torch
from tests.sae.train.parallel.cases import do

from matryo.sae.train.parallel import open_processes

if __name__ == "__main__":
    torch.set_num_threads(1)
    with open_processes() as processes:
        for job in sys.argv[2:]:
            what, _, mode = job.partition(":")
            do(what, mode, Path(sys.argv[1]), processes)

"""The sections about matryo alone: cost as the dictionary and k grow, and many autoencoders in one pass."""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.contender import Task
from bench.peers.matryo import Matryo, build_from
from bench.timing import Entrant, Product, against, interleave, summary
from bench.workload import Shape, make

SIZES = (4_096, 8_192, 16_384, 32_768, 65_536)
ACTIVE = (16, 32, 64, 128, 256)
GRID = 4


def time_sizes(shape: Shape, rounds: int, warm: int, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """BatchTopK steps as n_latents grows at fixed d_in, each beside its own product, interleaved."""
    return _grow([replace(shape, n_latents=n) for n in sizes], rounds, warm, reference=1)


def time_active(shape: Shape, rounds: int, warm: int, active: tuple[int, ...] = ACTIVE) -> dict[str, Any]:
    """BatchTopK steps as k grows."""
    return _grow([replace(shape, k=k) for k in active], rounds, warm, reference=1)


def _grow(shapes: list[Shape], rounds: int, warm: int, reference: int) -> dict[str, Any]:
    """Time a step of every shape; each is also compared, per token and latent, with the shape at index `reference`."""
    space = torch.empty(max(s.batch * s.n_latents for s in shapes))
    entrants = []
    for shape in shapes:
        work = make(shape)
        ours = Matryo("batch_topk")
        ours.setup(Task("batch_topk", shape), work)
        out = space[: shape.batch * shape.n_latents].view(shape.batch, shape.n_latents)
        product = Product(work.batches[0], work.enc_rows, out)
        entrants.append(Entrant(f"n={shape.n_latents}, k={shape.k}", ours.step, product, work.batches))
    interleave(entrants, rounds, warm)
    rows = []
    for shape, entrant in zip(shapes, entrants, strict=True):
        if entrant.error is not None:
            rows.append({"shape": vars(shape), "state": "failed", "why": entrant.error})
            continue
        latents = shape.n_latents / shapes[reference].n_latents
        # Both step times are taken as multiples of the product beside them, so that drift cancels; that is already
        # per token and latent. The plain quotient of seconds is given too.
        first = dict(zip(entrants[reference].rounds, entrants[reference].seconds, strict=True))
        plain = [s / first[i] / latents for i, s in zip(entrant.rounds, entrant.seconds, strict=True) if i in first]
        rows.append(
            {
                "shape": vars(shape),
                "state": "measured",
                "seconds": summary(entrant.seconds),
                "ratio": summary(entrant.ratios),
                "microseconds_per_token": 1e6 * summary(entrant.seconds)["median"] / shape.batch,
                "relative": summary(against(entrant, entrants[reference])),
                "relative_seconds": summary(plain),
                "raw": {"seconds": entrant.seconds, "products": entrant.products},
            }
        )
    return {"shape": vars(shapes[reference]), "rows": rows}


def time_grid(shape: Shape, rounds: int, warm: int) -> dict[str, Any]:
    """Time per autoencoder of GRID in one `train`, against one alone, both less the cost of the data.

    `train` runs for 2 + 3 steps, alone and with the grid in turn, `rounds` times (a third of the usual, for each gives
    three); the time between two calls of its `should_stop` is one step, reading and scaling the batch included.
    The data's share is timed by reading the same batches through the same source, scaled, with nothing trained.
    """
    work = make(shape)
    alone: list[float] = []
    grid: list[float] = []
    data: list[float] = []
    product = Product(work.batches[0], work.enc_rows)
    products: list[float] = []
    for index in range(max(2, rounds // 3)):
        for kept, count in ((alone, 1), (grid, GRID)) if index % 2 else ((grid, GRID), (alone, 1)):
            kept += _train_steps(shape, work, count, warm=2, steps=3)
            products.append(product())
        data += _read_steps(work.batches, 3)
    cost = summary(data)["median"]
    one, many = summary(alone), summary(grid)
    per_sae = (many["median"] - cost) / GRID
    return {
        "shape": vars(shape),
        "saes": GRID,
        "alone_seconds": one,
        "grid_seconds": many,
        "data_seconds": summary(data),
        "product_seconds": summary(products),
        "per_sae_over_alone": per_sae / (one["median"] - cost),
        "raw": {"alone": alone, "grid": grid, "data": data},
    }


def _train_steps(shape: Shape, work: Any, count: int, warm: int, steps: int) -> list[float]:
    from matryo.sae.train import TrainConfig, train
    from matryo.sae.train.loop import Interrupted

    saes = {f"seed {seed}": build_from(Task("batch_topk", shape), work) for seed in range(count)}
    stamps: list[float] = []

    def stamp() -> bool:
        stamps.append(time.perf_counter())
        return len(stamps) > warm + steps

    config = TrainConfig(steps=10_000, lr=1e-5, clip=0, log_every=10_000, checkpoint_every=0)
    with contextlib.suppress(Interrupted):
        train(saes, work.batches, config, should_stop=stamp)
    took = [after - before for before, after in itertools.pairwise(stamps)]
    return took[warm:]


def _read_steps(batches: list[Tensor], steps: int) -> list[float]:
    from matryo.sae.train.batches import BatchSource

    source = BatchSource(batches)
    took = []
    for _ in range(steps):
        began = time.perf_counter()
        batch = source.take()
        assert batch is not None
        _ = batch[0] * 1.0
        took.append(time.perf_counter() - began)
    return took

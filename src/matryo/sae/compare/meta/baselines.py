"""What other dictionaries explain of the decoder, with an encoder trained for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.compare.meta.config import MetaConfig
from matryo.sae.compare.meta.decompose import decompose
from matryo.sae.compare.meta.fit import RowBatches, fresh_meta, with_direction
from matryo.sae.compare.meta.neighbours import nearest_of_several
from matryo.sae.nn import SAE
from matryo.sae.nn.base import unit_scale
from matryo.sae.train.adam import Adam
from matryo.spine.seeding import torch_generator


def refit_encoder(
    vectors: Float[Tensor, "n_meta d"], directions: Float[Tensor, "n_latents d"], config: MetaConfig
) -> SAE:
    """Train an encoder for a dictionary that stays as it is: the meta-SAE's loss, steps and batches, W_dec fixed.

    The encoder starts as the dictionary's transpose. b_dec is trained too, so that a dictionary does not lose by the
    mean alone. There is no auxiliary loss, which would move rows.

    Raises:
        ValueError: the dictionary has another size than the meta-SAE, or k is not below it.
    """
    rows = with_direction(directions)
    size = config.size(len(rows))
    if len(vectors) != size:
        raise ValueError(f"the dictionary has {len(vectors)} rows; expected {size}, as many as the meta-SAE")
    sae = fresh_meta(config, rows).train()
    with torch.no_grad():
        vectors = vectors.to(sae.W_dec)
        sae.W_dec.copy_(vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.t())
    scale, training = unit_scale(rows), config.train_config(len(rows))
    batches = RowBatches(rows, config.rows_per_step(len(rows)), config.replacement, config.meta_seed)
    learned: dict[str, Tensor] = {name: value for name, value in sae.named_parameters() if name != "W_dec"}
    adam, step, hint = Adam(learned, training.betas, {"threshold": training.threshold_lr}), 0, None
    sae.W_dec.requires_grad_(False)
    sae.initialise(scale * rows)
    while step < config.steps:
        for x in batches:
            loss = sae.loss(scale * x, hint=hint, sparsity_scale=training.sparsity_factor(step, config.steps))
            loss.total.backward()
            adam.lr, hint = config.lr * training.lr_factor(step, config.steps), loss.smallest
            adam.step()
            step += 1
            if step == config.steps:
                break
    sae.W_dec.requires_grad_(True)
    with torch.no_grad():
        sae.calibrate([scale * rows])
        sae.rescale(scale)
    return sae.eval()


def measure_baselines(
    meta: SAE,
    directions: Float[Tensor, "n_latents d"],
    config: MetaConfig,
    smaller: Mapping[str, Float[Tensor, "n d"]],
) -> dict[str, float]:
    """Decoder variance explained by other dictionaries of the meta-SAE's size, each with an encoder of its own.

    `random`: unit vectors in random directions. `smaller`: every meta-latent replaced by the most similar latent of the
    smaller SAEs, where there are any.
    """
    generator = torch_generator(config.meta_seed, "random directions")
    dictionaries = {"random": torch.randn(meta.W_dec.shape, generator=generator)}
    if smaller:
        dictionaries["smaller"] = nearest_of_several(meta_directions(meta), smaller)[1]
    found = {}
    for name, vectors in dictionaries.items():
        refitted = refit_encoder(vectors, directions, config)
        found[name] = decompose(refitted, directions).variance_explained
    return found


def meta_directions(meta: SAE) -> Float[Tensor, "n_meta d"]:
    """The meta-SAE's own decoder rows at unit norm."""
    rows = meta.W_dec.detach().float()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)

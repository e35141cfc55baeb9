"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`, TopK SAEs and transcoders.

    z = the k largest of relu((x − b_dec) W + b);  a transcoder (`transcode`) does not subtract b_dec

`encoder.weight` (n_latents, d_in), `encoder.bias`, `W_dec` (n_latents, d_in) — already rows, not transposed —, `b_dec`.
`normalize_decoder` and `multi_topk` concern training alone.
"""

from __future__ import annotations

from pathlib import Path

from matryo.sae.interop.foreign import Foreign, assemble, read_json, read_safetensors, renamed, whole_number
from matryo.sae.nn import SAEConfig
from matryo.spine.errors import unknown

NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


def read(weights: Path) -> Foreign:
    """Read the SAE whose weights these are.

    Raises:
        ValueError: a skip connection, GroupMax or signed activations, which our kinds do not have; or broken files.
    """
    import torch

    where = weights.with_name("cfg.json")
    config, tensors = read_json(where), read_safetensors(weights)
    if config.get("skip_connection") or "W_skip" in tensors:
        raise ValueError(f"{weights} has a skip connection, a linear path past the latents, which no SAE here has")
    activation = config.get("activation", "topk")
    if activation == "groupmax":
        raise ValueError(f"{where}: activation is 'groupmax', one latent of each group; expected 'topk'")
    if activation != "topk":
        raise unknown("activation", str(activation), ["topk"])
    if config.get("signed"):
        raise ValueError(f"{where}: signed latents may be negative; expected latents of 0 or more")
    state = renamed(tensors, NAMES, weights)
    transcoder = bool(config.get("transcode"))
    n_latents, d_out = state["W_dec"].shape
    sae_config = SAEConfig(
        kind="topk",
        d_in=len(state["W_enc"]),
        n_latents=n_latents,
        k=whole_number(config.get("k"), "k", where),
        d_out=d_out if transcoder else None,
    )
    sae = assemble(sae_config, state | {"threshold": torch.tensor(float("nan"))}, weights)
    what = f"{'transcoder' if transcoder else 'SparseCoder'} of sparsify"
    return Foreign(sae, what, metadata={"hook_name": weights.parent.name})

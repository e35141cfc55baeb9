"""Run by test_saelens.py in a process of its own: the real SAELens reads our folders and writes its own.

FOLDER/ours/NAME       → FOLDER/read/NAME.safetensors (x in, z and x_hat as SAELens computes them)
                       → FOLDER/resaved/NAME, saved again by SAELens
FOLDER/theirs/NAME     written by SAELens, with FOLDER/theirs/NAME.safetensors
"""

import json
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import sae_lens  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

D_IN, D_OUT, D_SAE, K = 9, 5, 31, 4


@dataclass
class Theirs:
    name: str
    cls: Any
    cfg: Any


def configs() -> list[Theirs]:
    size = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
    both = []
    for centred in (True, False):
        at = "centred" if centred else "plain"
        more = {"apply_b_dec_to_input": centred}
        both += [
            Theirs(f"standard-{at}", sae_lens.StandardSAE, sae_lens.StandardSAEConfig(**size, **more)),
            Theirs(f"jumprelu-{at}", sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig(**size, **more)),
            Theirs(f"gated-{at}", sae_lens.GatedSAE, sae_lens.GatedSAEConfig(**size, **more)),
        ]
        for rescale in (True, False):
            cfg = sae_lens.TopKSAEConfig(**size, **more, k=K, rescale_acts_by_decoder_norm=rescale)
            both.append(Theirs(f"topk-{at}{'-rescaled' if rescale else ''}", sae_lens.TopKSAE, cfg))
    across = size | {"d_out": D_OUT, "apply_b_dec_to_input": False}
    return [
        *both,
        Theirs("transcoder", sae_lens.Transcoder, sae_lens.TranscoderConfig(**across)),
        Theirs("jumprelu_transcoder", sae_lens.JumpReLUTranscoder, sae_lens.JumpReLUTranscoderConfig(**across)),
        *training(size),
    ]


def training(size: dict[str, Any]) -> list[Theirs]:
    """SAEs that SAELens trains in one form and saves for inference in another."""
    nested = {"matryoshka_widths": [7, D_SAE]}
    return [
        Theirs("trained-topk", sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig(**size, k=K)),
        Theirs("trained-batchtopk", sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig(**size, k=K)),
        Theirs(
            "trained-matryoshka",
            sae_lens.MatryoshkaBatchTopKTrainingSAE,
            sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(**size, **nested, k=K),
        ),
        Theirs("trained-jumprelu", sae_lens.JumpReLUTrainingSAE, sae_lens.JumpReLUTrainingSAEConfig(**size)),
        Theirs("trained-gated", sae_lens.GatedTrainingSAE, sae_lens.GatedTrainingSAEConfig(**size)),
        Theirs("trained-standard", sae_lens.StandardTrainingSAE, sae_lens.StandardTrainingSAEConfig(**size)),
    ]


@torch.no_grad()
def outputs(sae: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    z = sae.encode(x)
    return {"x": x, "z": z.contiguous(), "x_hat": sae.decode(z).contiguous()}


@torch.no_grad()
def write(item: Theirs, folder: Path, generator: torch.Generator) -> None:
    sae = item.cls(replace(item.cfg))
    for name, value in sae.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(0.5 + 0.1 * noise if name == "threshold" else 0.6 * noise)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.8)
    save = getattr(sae, "save_inference_model", sae.save_model)
    save(folder / item.name)
    read = sae_lens.SAE.load_from_disk(folder / item.name)
    save_file(outputs(read, torch.randn(23, D_IN, generator=generator)), folder / f"{item.name}.safetensors")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    (folder / "read").mkdir()
    for ours in sorted((folder / "ours").iterdir()):
        if ours.is_dir():
            sae = sae_lens.SAE.load_from_disk(ours)
            made = outputs(sae, load_file(ours.with_suffix(".x.safetensors"))["x"])
            save_file(made, folder / "read" / f"{ours.name}.safetensors")
            sae.save_model(folder / "resaved" / ours.name)
    (folder / "theirs").mkdir()
    generator = torch.Generator().manual_seed(0)
    for item in configs():
        write(item, folder / "theirs", generator)
    names = sorted(item.name for item in configs())
    (folder / "done.json").write_text(json.dumps({"version": sae_lens.__version__, "theirs": names}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

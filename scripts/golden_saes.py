"""Write tests/sae/interop/golden: tiny SAEs in other libraries' formats, with what those libraries compute.

    python scripts/golden_saes.py
    python scripts/golden_saes.py check FOLDER

The second form compares what dictionary_learning computes with the ae.pt files that matryo wrote below a folder to the
outputs.safetensors beside them, and writes nothing.
Needs an environment with dictionary-learning, eai-sparsify and sae-lens (their versions go into versions.json); matryo
is not imported. Each folder GOLDEN/FORMAT/NAME holds the library's own files and outputs.safetensors: x, z, x_hat.

* dictionary_learning: the library's trainers and classes; files as its `trainSAE` writes them, outputs of its
  `load_dictionary`.
* sparsify: `SparseCoder.save_to_disk`, outputs of `SparseCoder.load_from_disk`.
* saelens: `save_model`, outputs of `SAE.load_from_disk`. The folder of before release 6 is written here in the layout
  that `sae_lens` still reads, and read by it.
* gemma_scope: no library writes the file; it is written here, and read by SAELens' own Gemma Scope loader.
* authors: bartbussmann/BatchTopK (b9aab1c) and matryoshka_sae (c7c5787) are not packages. The files follow their
  `save_checkpoint`, the outputs their `forward` in eval mode, both written down anew here from reading them.
"""

import importlib.machinery
import json
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

warnings.simplefilter("ignore")
for absent in ("nnsight", "zstandard"):
    try:
        __import__(absent)
    except ImportError:
        # dictionary_learning imports them for its activation buffers, which are not used here.
        sys.modules[absent] = mock.MagicMock(__spec__=importlib.machinery.ModuleSpec(absent, None))

import dictionary_learning.trainers as dl  # noqa: E402
import numpy as np  # noqa: E402
import sae_lens  # noqa: E402
import torch  # noqa: E402
from dictionary_learning.dictionary import AutoEncoderNew  # noqa: E402
from dictionary_learning.trainers.gdm import GatedSAETrainer  # noqa: E402
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer  # noqa: E402
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate  # noqa: E402
from dictionary_learning.utils import load_dictionary  # noqa: E402
from sae_lens.loading import pretrained_sae_loaders as loaders  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sparsify import SparseCoder, SparseCoderConfig  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "tests" / "sae" / "interop" / "golden"
D, N, K, ROWS = 7, 19, 3, 23
GROUPS = [4, 6, 9]
generator = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator)


def fill(tensors: dict[str, torch.Tensor]) -> None:
    """Move every float parameter away from its start; thresholds stay positive."""
    for name, value in tensors.items():
        if value.is_floating_point():
            value.data.copy_(0.4 + 0.1 * normal(*value.shape) if "threshold" in name else 0.6 * normal(*value.shape))


def keep(folder: Path, x: torch.Tensor, z: torch.Tensor, x_hat: torch.Tensor) -> None:
    """Write what the library computes."""
    outputs = {"x": x, "z": z, "x_hat": x_hat}
    save_file(
        {key: value.detach().float().contiguous() for key, value in outputs.items()}, folder / "outputs.safetensors"
    )


def fresh(form: str, name: str) -> Path:
    """Make the folder of one checkpoint."""
    folder = GOLDEN / form / name
    folder.mkdir(parents=True)
    return folder


def write_dictionary_learning() -> None:
    """Every class with latents, with a trainer's own configuration; one BatchTopK whose threshold is not set yet."""
    both = {"steps": 5000, "activation_dim": D, "dict_size": N, "layer": 3, "lm_name": "EleutherAI/pythia-70m"}
    both |= {"device": "cpu", "submodule_name": "resid_post_layer_3"}
    fractions = [4 / N, 6 / N, 9 / N]
    made = {
        "AutoEncoder": dl.StandardTrainer(**both),
        "AutoEncoderNew": StandardTrainerAprilUpdate(**both),
        "GatedAutoEncoder": GatedSAETrainer(**both),
        "AutoEncoderTopK": dl.TopKTrainer(**both, k=K),
        "BatchTopKSAE": dl.BatchTopKTrainer(**both, k=K),
        "BatchTopKSAE-unset": dl.BatchTopKTrainer(**both, k=K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKTrainer(**both, k=K, group_fractions=fractions),
        "JumpReluAutoEncoder": dl.JumpReluTrainer(**both),
    }
    for name, trainer in made.items():
        folder, config = fresh("dictionary_learning", name), trainer.config
        ae = AutoEncoderNew(D, N) if name == "AutoEncoderNew" else trainer.ae
        config["dict_class"] = name.removesuffix("-unset")
        fill(ae.state_dict())
        if name.endswith("-unset"):
            ae.threshold.fill_(-1.0)
        if name not in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder"):
            rows = ae.W_dec if hasattr(ae, "W_dec") else ae.decoder.weight.t()
            rows.data.div_(rows.data.norm(dim=1, keepdim=True))
        torch.save(ae.state_dict(), folder / "ae.pt")
        buffer = {"d_submodule": D, "ctx_len": 128, "io": "out"}
        (folder / "config.json").write_text(json.dumps({"trainer": config, "buffer": buffer}, indent=1, default=str))
        read, _ = load_dictionary(str(folder), "cpu")
        x = normal(ROWS, D)
        z = read.encode(x)
        keep(folder, x, z, read.decode(z))


def write_sparsify() -> None:
    """An SAE, a transcoder, and one with a skip connection, which is to be refused."""
    for name, more in {
        "layers.3": {},
        "transcoder": {"transcode": True},
        "skip": {"transcode": True, "skip_connection": True},
    }.items():
        folder = fresh("sparsify", name)
        coder = SparseCoder(D, SparseCoderConfig(num_latents=N, k=K, **more))
        fill(coder.state_dict())
        coder.save_to_disk(folder)
        read = SparseCoder.load_from_disk(folder)
        x = normal(ROWS, D)
        acts, indices, _ = read.encode(x)
        x_hat = read.decode(acts, indices)
        keep(folder, x, torch.zeros(ROWS, N).scatter(1, indices, acts), x_hat)


def write_saelens() -> None:
    """Folders of release 6, and one of before."""
    size = {"d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu"}
    meta = sae_lens.saes.sae.SAEMetadata(model_name="gpt2", hook_name="blocks.3.hook_resid_pre", context_size=128)
    made = {
        "standard": sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**size, metadata=meta)),
        "gated": sae_lens.GatedSAE(sae_lens.GatedSAEConfig(**size, metadata=meta)),
        "jumprelu": sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**size, apply_b_dec_to_input=False, metadata=meta)),
        "topk": sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**size, k=K, rescale_acts_by_decoder_norm=True, metadata=meta)),
        "transcoder": sae_lens.Transcoder(
            sae_lens.TranscoderConfig(**size, d_out=5, apply_b_dec_to_input=False, metadata=meta)
        ),
    }
    for name, sae in made.items():
        folder = fresh("saelens", name)
        fill(sae.state_dict())
        sae.save_model(folder)
        keep_saelens(folder, sae_lens.SAE.load_from_disk(folder))
    old = fresh("saelens", "before-6-topk")
    shapes = {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,)}
    save_file({key: 0.6 * normal(*shape) for key, shape in shapes.items()}, old / "sae_weights.safetensors")
    config: dict[str, Any] = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": N,
        "dtype": "torch.float32",
        "device": "cpu",
    }
    config |= {"model_name": "gpt2-small", "hook_name": "blocks.3.hook_resid_pre", "hook_layer": 3, "context_size": 128}
    config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": True}
    config |= {"finetuning_scaling_factor": False, "normalize_activations": "none", "prepend_bos": True}
    (old / "cfg.json").write_text(json.dumps(config, indent=1))
    keep_saelens(old, sae_lens.SAE.load_from_disk(old))


def keep_saelens(folder: Path, sae: Any) -> None:
    """Write what SAELens computes."""
    x = normal(ROWS, D)
    z = sae.encode(x)
    keep(folder, x, z, sae.decode(z))


def write_gemma_scope() -> None:
    """An SAE of a layer and one of the embedding, which SAELens rescales by its folder's name."""
    for name in ("layer_3/width_19", "embedding/width_19"):
        folder = fresh("gemma_scope", name)
        arrays = {"W_enc": 0.6 * normal(D, N), "b_enc": 0.6 * normal(N), "W_dec": 0.6 * normal(N, D)}
        arrays |= {"b_dec": 0.6 * normal(D), "threshold": (0.4 + 0.1 * normal(N)).abs()}
        np.savez(folder / "params.npz", **{key: value.numpy() for key, value in arrays.items()})
        config = {"architecture": "jumprelu", "d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu"}
        config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", "finetuning_scaling_factor": False}
        with (
            mock.patch.object(loaders, "hf_hub_download", lambda **_: folder / "params.npz"),  # noqa: B023
            mock.patch.object(loaders, "get_gemma_2_config_from_hf", lambda *_: dict(config)),  # noqa: B023
        ):
            cfg, state, _ = loaders.gemma_2_sae_huggingface_loader("google/gemma-scope-2b-pt-res", name)
        cfg.pop("finetuning_scaling_factor")
        sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig.from_dict(cfg))
        sae.load_state_dict(state)
        keep_saelens(folder, sae)


def write_authors() -> None:
    """Every `sae_type`; `batchtopk` is the first repository's, without a threshold."""
    made = {
        "vanilla": {},
        "topk": {},
        "batch-topk": {},
        "batchtopk": {},
        "global-matryoshka-topk": {"group_sizes": GROUPS},
        "jumprelu": {},
    }
    for name, more in made.items():
        folder = fresh("authors", name)
        p = {"b_dec": 0.6 * normal(D), "b_enc": 0.6 * normal(N), "W_enc": 0.6 * normal(D, N), "W_dec": normal(N, D)}
        p["W_dec"] /= p["W_dec"].norm(dim=-1, keepdim=True)
        if name in ("batch-topk", "global-matryoshka-topk"):
            p["threshold"] = torch.tensor(0.7)
        if name == "jumprelu":
            p["jumprelu.log_threshold"] = 0.3 * normal(N) - 1
        torch.save(p, folder / "sae.pt")
        config: dict[str, Any] = {"seed": 49, "lr": 3e-4, "seq_len": 128, "dtype": "torch.float32", "site": "resid_pre"}
        config |= {"model_name": "gpt2-small", "layer": 3, "act_size": D, "dict_size": N, "device": "cuda:0"}
        config |= {"input_unit_norm": False, "sae_type": name, "top_k": K, "bandwidth": 0.001}
        config |= {"hook_point": "blocks.3.hook_resid_pre", "dataset_path": "Skylion007/openwebtext"}
        config |= {key: str(value) for key, value in more.items()}
        (folder / "config.json").write_text(json.dumps(config, indent=4))
        x = normal(ROWS, D)
        z = authors_latents(name, p, x)
        keep(folder, x, z, z @ p["W_dec"] + p["b_dec"])


def authors_latents(name: str, p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What the authors' `forward` gives in eval mode; without threshold, what it gives by batch."""
    if name == "jumprelu":
        acts = torch.relu(x @ p["W_enc"] + p["b_enc"])
        return acts * (acts > p["jumprelu.log_threshold"].exp())
    if name == "vanilla":
        return torch.relu((x - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
    acts = torch.relu((x - p["b_dec"]) @ p["W_enc"])
    if name == "topk":
        top = torch.topk(acts, K, dim=-1)
        return torch.zeros_like(acts).scatter(-1, top.indices, top.values)
    if "threshold" in p:
        return torch.where(acts > p["threshold"], acts, torch.zeros_like(acts))
    top = torch.topk(acts.flatten(), K * len(x))
    return torch.zeros_like(acts.flatten()).scatter(-1, top.indices, top.values).reshape(acts.shape)


def check(folder: Path) -> None:
    """Compare what dictionary_learning computes with the ae.pt files below a folder to the outputs beside them."""
    for file in sorted(folder.rglob("ae.pt")):
        read, _ = load_dictionary(str(file.parent), "cpu")
        ours = load_file(file.parent / "outputs.safetensors")
        z = read.encode(ours["x"])
        gaps = (z - ours["z"]).abs().max(), (read.decode(z) - ours["x_hat"]).abs().max()
        print(f"{file.parent.relative_to(folder)}: {type(read).__name__}, z {gaps[0]:.1e}, x_hat {gaps[1]:.1e}")  # noqa: T201


@torch.no_grad()
def main() -> None:
    """Write all of it anew, or check what matryo wrote: `golden_saes.py check FOLDER`."""
    if sys.argv[1:2] == ["check"]:
        check(Path(sys.argv[2]))
        return
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write_dictionary_learning()
    write_sparsify()
    write_saelens()
    write_gemma_scope()
    write_authors()
    names = ("dictionary-learning", "eai-sparsify", "sae-lens", "torch", "safetensors", "numpy")
    (GOLDEN / "versions.json").write_text(json.dumps({name: version(name) for name in names}, indent=1) + "\n")


if __name__ == "__main__":
    main()

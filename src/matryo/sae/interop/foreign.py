"""What a reader hands back, and what readers share: JSON, tensors under our names, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.nn.folding import shift_pre_acts
from matryo.sae.nn.topk_family import TopKFamily


@dataclass(frozen=True)
class Foreign:
    """An autoencoder read from another library's files."""

    sae: SAE
    "In eval mode, with weights of at least float32."
    what: str
    "Its class or architecture, and the library, for a reader."
    notes: tuple[str, ...] = ()
    "What was folded, left out or assumed, one line each."
    metadata: dict[str, Any] = field(default_factory=dict)
    "SAELens' keys as far as they are known: model_name, hook_name, context_size, …"

    @property
    def uncalibrated(self) -> bool:
        """Whether the SAE infers by a threshold that is not known."""
        return needs_threshold(self.sae)

    def set_threshold(self, threshold: float) -> None:
        """Give a BatchTopK SAE, or a TopK one with levels, the threshold it infers with.

        Raises:
            ValueError: a number below 0, or another kind of SAE.
        """
        if not isinstance(self.sae, TopKFamily) or not self.sae.by_threshold:
            raise ValueError(f"threshold is {threshold}, and this {self.sae.config.kind} SAE infers without: leave it")
        if not 0 <= threshold < float("inf"):
            raise ValueError(f"threshold is {threshold}; expected a number of 0 or more")
        self.sae.threshold.fill_(threshold)


def needs_threshold(sae: SAE) -> bool:
    """Whether an SAE infers by a threshold that has not been set."""
    return isinstance(sae, TopKFamily) and sae.by_threshold and not sae.calibrated


def assemble(config: SAEConfig, state: Mapping[str, Tensor], where: Path) -> SAE:
    """An autoencoder with these tensors, which stand under our names; float16 and bfloat16 become float32.

    Raises:
        ValueError: a tensor is missing, or has another shape than the others.
    """
    sae = build(config).to(torch.promote_types(state["W_dec"].dtype, torch.float32))
    try:
        sae.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"{where} does not fit its configuration: {' '.join(str(error).split())}") from None
    return sae.eval()


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str], where: Path, optional: Iterable[str] = ()) -> Any:
    """Their tensors under our names, in at least float32; a linear layer's `….weight` transposed.

    Raises:
        ValueError: a tensor is missing, or there is one we do not know: what it does would be lost.
    """
    missing = [name for name in names if name not in tensors and name not in optional]
    unexpected = [name for name in tensors if name not in names]
    if missing or unexpected:
        lacks = f"lacks {', '.join(missing)}" if missing else ""
        extra = f"has {', '.join(unexpected)} besides" if unexpected else ""
        told = " and ".join(filter(None, (lacks, extra)))
        raise ValueError(f"{where} {told}; expected exactly {', '.join(names)}")
    state = {}
    for theirs, ours in names.items():
        if theirs in tensors:
            value = tensors[theirs]
            value = value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value
            # Biases are changed in place later; a matrix is copied once, into the autoencoder.
            value = value.clone() if value.dim() < 2 else value
            state[ours] = value.t() if theirs.endswith(".weight") else value
    return state


def take_off_b_dec(state: dict[str, Tensor]) -> str:
    """Rewrite an encoder of x as one of x − b_dec, in place, and say so.

    x W_enc + b = (x − b_dec) W_enc + b_enc with b_enc = b + b_dec W_enc.
    """
    shift_pre_acts(state, state["b_dec"] @ state["W_enc"])
    return "b_dec W_enc was added to b_enc: the original does not subtract b_dec from its input, ours does"


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        ValueError: no file, no JSON, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; expected the configuration beside the weights: copy it too") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); expected an SAE's configuration") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; expected an object, an SAE's configuration")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected SAE weights: copy them again") from None


def whole_number(value: Any, name: str, where: Path) -> int:
    """A positive whole number, also when it is written as text, as some configurations do."""
    try:
        number = int(value)
        if number < 1 or number != float(value):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {name} is {value!r}; expected a whole number of 1 or more") from None
    return number

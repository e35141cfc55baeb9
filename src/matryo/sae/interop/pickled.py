"""The one place where a `.pt` file is read: tensors only, never objects."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, read with `weights_only=True`: a pickle that would run code is refused.

    Raises:
        ValueError: no file, a damaged one, or one that holds anything but tensors by name.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected the SAE's weights beside their configuration: copy them too")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or forbidden pickle raises shares no base class
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}: {reason}); expected a state dict saved "
            "by torch.save: nothing else is unpickled"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a state dict, tensors by name")
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{path} holds {', '.join(others[:5])} that are no tensors; expected a plain state dict")
    return dict(found)

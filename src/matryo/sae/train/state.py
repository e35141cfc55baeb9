"""What a checkpoint holds: everything that changes as autoencoders train, however they are shared out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from matryo.sae.train.checkpoint import TENSORS, Part, Stored
from matryo.sae.train.member import Member
from matryo.sae.train.parallel.sharing import Parallel


def collect_state(members: Mapping[str, Member], parallel: Parallel) -> tuple[dict[str, Part], dict[str, Any]]:
    """This process's files of a checkpoint, and the plain values of all autoencoders.

    Of rows shared out, the first process has everything; of autoencoders, each has its own; of latents, each its
    slices, and the first what all have alike.
    """
    parts: dict[str, Part] = {}
    whole: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, (name, member) in enumerate(members.items()):
        own, plain[name] = member.state()
        tensors = {f"{name}|{key}": value for key, value in own.items()}
        if parallel.mode == "latents" and parallel.size > 1:
            cut = {f"{name}|{key}" for key in member.by_latent}
            first, stop = rows_of(member)
            mine = {key: value for key, value in tensors.items() if key in cut}
            parts[f"sae-{index}-latents-{first}-{stop}.safetensors"] = Part(mine, (first, stop))
            tensors = {key: value for key, value in tensors.items() if key not in cut}
        whole |= tensors
    if parallel.mode == "grid" and parallel.size > 1:
        parts[f"saes-{parallel.rank}-of-{parallel.size}.safetensors"] = Part(whole)
    elif parallel.first:
        parts[TENSORS] = Part(whole)
    return parts, parallel.merged(plain)


def restore_state(stored: Stored, members: Mapping[str, Member]) -> None:
    """Take up what is this process's of a checkpoint that any number of processes wrote."""
    for name, member in members.items():
        first, stop = rows_of(member)
        rows = (first, stop) if stop - first < member.sae.config.n_latents else None
        member.restore(stored.read(f"{name}|", member.by_latent, rows), stored.plain["members"][name])


def rows_of(member: Member) -> tuple[int, int]:
    """First and one past the last of the latents that a member trains here."""
    return member.sae.first, member.sae.first + len(member.sae.W_dec)

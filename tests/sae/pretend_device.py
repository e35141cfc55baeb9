"""A device that is not there: its tensors hold CPU data, claim to be elsewhere, and refuse to meet CPU tensors.

As on a GPU, whole tensors of two devices meet only in copies and as indices; a number on the CPU (no dimensions) goes
with anything. What a GPU computes, how fast, and in which order it adds is not imitated. The name of the device is
taken for the whole process: import this in a process of its own.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
PRETEND = torch.device("pretend:0")
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class Elsewhere(Tensor):
    """A tensor on the pretend device."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        return Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=PRETEND,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"Elsewhere({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class PretendDevice(TorchDispatchMode):
    """Within the block, tensors can be made on, and moved to, the device `pretend`."""

    def __enter__(self):
        self._tensor = torch.tensor
        torch.tensor = self._made_here_and_moved  # it does not ask a mode
        return super().__enter__()

    def __exit__(self, *error):
        torch.tensor = self._tensor
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def _made_here_and_moved(self, data, *, device=None, **options):
        made = self._tensor(data, **options)
        return made if device is None else made.to(device)


def compute(func, args, kwargs):
    name, leaves = func.overloadpacket.__name__, tree_leaves((args, kwargs))
    there = [t for t in leaves if isinstance(t, Elsewhere)]
    indices = args[1] if name in INDEXED else ()
    here = [t for t in leaves if isinstance(t, Tensor) and not any(t is other for other in (*there, *indices))]
    if there and any(t.dim() for t in here) and name != "copy_":
        raise RuntimeError(f"{func}: CPU tensors {[tuple(t.shape) for t in here]} meet {there} of another device")
    asked = kwargs.get("device")
    away = bool(there) if asked is None else torch.device(asked).type == PRETEND.type
    if away and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of the CPU draws for the pretend device")
    if away and asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    args_inside, kwargs_inside = tree_map(_inside, (args, kwargs))
    out = func(*args_inside, **kwargs_inside)
    if name == "copy_":
        return args[0]
    own = {id(t.inner): t for t in there}  # what works in place returns the tensor it was given
    return tree_map(lambda t: own.get(id(t), Elsewhere(t)) if away and isinstance(t, Tensor) else t, out)


def _inside(value):
    return value.inner if isinstance(value, Elsewhere) else value

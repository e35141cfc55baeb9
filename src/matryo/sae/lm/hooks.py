"""Reading and replacing the value at a module's input or output, by plain PyTorch forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

At = Literal["input", "output"]
Visit = Callable[[Tensor], Tensor | None]

_whole_passes: ContextVar[bool] = ContextVar("whole_passes", default=False)


def attach(module: nn.Module, at: At, visit: Visit) -> RemovableHandle:
    """Call `visit(value)` whenever `module` runs; a tensor it returns takes the value's place.

    The value is the first tensor among the module's arguments (`at="input"`), or its output, the first item when it
    returns several (`at="output"`). `None`, or the value itself, leaves the forward pass bit-identical.
    """
    if at == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            where, value = _first_argument(module, args, kwargs)
            new = visit(value)
            if new is None or new is value:
                return None
            if isinstance(where, int):
                return (*args[:where], new, *args[where + 1 :]), kwargs
            return args, {**kwargs, where: new}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        value = _first_output(module, output)
        new = visit(value)
        return None if new is None or new is value else _with_first_output(output, new)

    return module.register_forward_hook(after)


@contextmanager
def whole_passes() -> Iterator[None]:
    """Inside, `capture` does not split its rows: somebody knows the whole batch by its row numbers."""
    token = _whole_passes.set(True)
    try:
        yield
    finally:
        _whole_passes.reset(token)


def passes_are_whole() -> bool:
    """Whether a `whole_passes` block is active."""
    return _whole_passes.get()


def _first_argument(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor]:
    for index, item in enumerate(args):
        if isinstance(item, Tensor):
            return index, item
    for name in ("hidden_states", *kwargs):
        if isinstance(kwargs.get(name), Tensor):
            return name, kwargs[name]
    raise ValueError(f"{type(module).__name__} was called without a tensor: choose the site of another module")


def _first_output(module: nn.Module, output: Any) -> Tensor:
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else [output]
    first = next(iter(items), None)
    if isinstance(first, Tensor) and torch.is_floating_point(first):
        return first
    raise ValueError(
        f"{type(module).__name__} returns {type(first).__name__}, not a tensor of activations: "
        "choose the site of another module"
    )


def _with_first_output(output: Any, new: Tensor) -> Any:
    if isinstance(output, Tensor):
        return new
    if isinstance(output, Mapping):
        first = next(iter(output))
        return type(output)(**{**output, first: new})
    rest = (new, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)

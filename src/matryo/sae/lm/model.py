"""The model under study and its tokenizer, as one object."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from matryo.sae.lm.families import family_of
from matryo.spine.fetch import file_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor, nn

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


@dataclass(frozen=True, eq=False)
class LM:
    """A language model, its tokenizer and where they come from.

    Made by `load_lm(name)`, or by `LM.wrap(model)` around any `nn.Module` already in memory.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    folder: Path | None = None
    """Folder of the weight files, when the model was read from files."""
    revision: str | None = None
    """The branch, tag or commit asked for, of a model from the Hub."""
    processing: tuple[str, ...] = ()
    """Weight processing applied after loading (see `processed`)."""

    @classmethod
    def wrap(cls, model: nn.Module, tokenizer: Any = None, name: str | None = None) -> LM:
        """Put any module where an LM is expected; `module:PATH` sites work for every one of them.

        The module is used as it is, except that it is set to evaluation mode: with dropout no two forward passes
        agree. Whether its parameters require gradients is left alone.
        """
        return cls(model.eval(), tokenizer, name or type(model).__name__)

    # What it is -------------------------------------------------------------------------------------------------

    @cached_property
    def is_hf(self) -> bool:
        """Whether the model takes Hugging Face's arguments."""
        from transformers import PreTrainedModel

        return isinstance(self.model, PreTrainedModel)

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies; the CPU when it has none."""
        first = next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._config("hidden_size"))

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        family = family_of(self.model)
        if family is not None:
            return len(list(self.model.get_submodule(family.blocks).children()))
        return int(self._config("num_hidden_layers"))

    @property
    def vocab_size(self) -> int:
        """Number of tokens the model embeds, which may exceed the number its tokenizer knows."""
        return int(self._config("vocab_size"))

    @property
    def max_positions(self) -> int | None:
        """Longest row the model was made for; None when it does not say."""
        return getattr(self._text_config(), "max_position_embeddings", None)

    @property
    def bos_id(self) -> int:
        """The token to put at position 0.

        The tokenizer's BOS; where it has none (Qwen), the configuration's, else the end-of-text token.

        Raises:
            ValueError: none of the three is set.
        """
        config = getattr(self.model, "config", None)
        for owner, field in (
            (self.tokenizer, "bos_token_id"),
            (config, "bos_token_id"),
            (self.tokenizer, "eos_token_id"),
        ):
            value = getattr(owner, field, None)
            if isinstance(value, int):
                return value
        raise ValueError(f"{self.name} has no BOS token: give its tokenizer a bos_token or eos_token")

    def identity(self) -> dict[str, Any]:
        """Which model this is: name, SHA-256 of weights, configuration and tokenizer files, number type, processing.

        A module without files is known by the hash of its parameters and buffers, None standing for files it lacks.
        """
        files = {} if self.folder is None else _hash_files(self.folder)
        if not files:
            files = {"weights": _hash_state(self.model), "config": None, "tokenizer": None}
        first = next(self.model.parameters(), None)
        dtype = None if first is None else str(first.dtype).removeprefix("torch.")
        extra = {"revision": self.revision} if self.revision else {}
        return {"name": self.name, **extra, **files, "dtype": dtype, "processing": list(self.processing)}

    # Text -------------------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Token ids of every text, without BOS and whatever its length.

        Text is text: `<|endoftext|>` written in a document becomes ordinary tokens, unless `special` is true.
        """
        if not texts:
            return []
        encoded = self._tokenizer()(
            list(texts), add_special_tokens=False, split_special_tokens=not special, verbose=False
        )
        return encoded["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a sequence of tokens, exactly."""
        return self._tokenizer().decode(list(ids), clean_up_tokenization_spaces=False)

    def decode_tokens(self, ids: Sequence[int]) -> list[str]:
        r"""One piece for display per token: printable, with `↵` for a newline and `\xE2` for part of a character."""
        pieces = self._pieces
        return [pieces(int(i)) for i in ids]

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """What each token stands for in UTF-8; joined, the text."""
        return [self._pieces.raw(int(i)) for i in ids]

    @cached_property
    def _pieces(self) -> Any:
        from matryo.sae.lm.pieces import Pieces

        return Pieces(self._tokenizer())

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer: pass one, LM.wrap(model, tokenizer)")
        return self.tokenizer

    # Running it -------------------------------------------------------------------------------------------------

    def unembed(self) -> Float[Tensor, "d_model vocab"]:
        """The matrix that turns the normalised last residual into logits, as a view; the norm is not folded in."""
        getter = getattr(self.model, "get_output_embeddings", None)
        head = None if getter is None else getter()
        if head is None:
            raise ValueError(f"{self.name} has no output embedding: use a causal language model")
        return head.weight.detach().T

    def forward(self, tokens: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos vocab"]:
        """Logits, recording gradients if the caller does. Attention is causal over the whole row.

        Raises:
            ValueError: tokens are not whole numbers below `vocab_size` in two dimensions, or the row is too long.
        """
        output = self.run(tokens)
        output = getattr(output, "logits", output)
        return output[0] if isinstance(output, tuple) else output

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos vocab"]:
        """`forward` without recording gradients: rows × pos × vocab numbers, so mind the memory."""
        return self.forward(tokens)

    def run(self, tokens: Int[Tensor, "rows pos"]) -> Any:
        """One forward pass, for its hooks: whatever the model returns."""
        if not self.is_hf:
            return self.model(tokens.to(self.device))
        return self.model(input_ids=self.checked(tokens).to(self.device), use_cache=False)

    def checked(self, tokens: Tensor) -> Tensor:
        """The tokens, once they are known to be rows the model can take."""
        kind = f"{tokens.dtype} of shape {tuple(tokens.shape)}".removeprefix("torch.")
        if tokens.dim() != 2 or tokens.is_floating_point() or not tokens.numel():
            raise ValueError(f"tokens are {kind}: expected whole numbers (rows, positions)")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(
                f"token {wrong} is not of {self.name}, which has 0 to {self.vocab_size - 1}: encode with its tokenizer"
            )
        longest = self.max_positions
        if longest is not None and tokens.shape[1] > longest:
            raise ValueError(
                f"rows of {tokens.shape[1]} tokens: {self.name} takes at most {longest}, make rows shorter"
            )
        return tokens

    def _text_config(self) -> Any:
        """The configuration of the language part, where a model has several."""
        config: Any = getattr(self.model, "config", None)
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    def _config(self, field: str) -> Any:
        value = getattr(self._text_config(), field, None)
        if value is None:
            raise ValueError(
                f"{self.name} is a plain {type(self.model).__name__} without {field}: use module:PATH sites"
            )
        return value


def _hash_files(folder: Path) -> dict[str, Any]:
    """SHA-256 of the weights, the configuration and the tokenizer in a Hugging Face folder."""
    index = folder / "model.safetensors.index.json"
    weights = [folder / "model.safetensors"]
    if index.is_file():
        weights = [index, *sorted(folder.glob("model-*.safetensors"))]
    tokenizer = [folder / name for name in _TOKENIZER_FILES]
    groups = {"weights": weights, "config": [folder / "config.json"], "tokenizer": tokenizer}
    if not all(path.is_file() for path in weights):
        return {}
    return {group: _hash_group([path for path in paths if path.is_file()]) for group, paths in groups.items()}


def _hash_group(paths: list[Path]) -> str | None:
    """One file's SHA-256, or the SHA-256 of the list of names and SHA-256s of several."""
    sums = []
    for path in paths:
        stat = path.stat()
        sums.append((path.name, _hash_file(path, stat.st_size, stat.st_mtime_ns)))
    if len(sums) <= 1:
        return sums[0][1] if sums else None
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums)
    return hashlib.sha256(lines.encode()).hexdigest()


@lru_cache(maxsize=64)
def _hash_file(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def _hash_state(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

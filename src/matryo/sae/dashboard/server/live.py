"""The language model behind the live pages: loaded in the background, used by one request at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from matryo.sae.dashboard.index.opened import Index

if TYPE_CHECKING:
    from matryo.sae.lm import LM
    from matryo.sae.nn import SAE


class Live:
    """The model of an index and its SAEs.

    Attributes:
        lock: held while the model runs: hooks of two requests must not meet.
    """

    def __init__(self, index: Index, device: str = "cpu", lm_dtype: str = "float32") -> None:
        self.index, self._device, self._lm_dtype = index, device, lm_dtype
        self.lock = threading.Lock()
        self._loaded = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._lm: LM | None = None
        self._saes: dict[str, SAE] = {}

    def begin(self) -> None:
        """Start loading, in a thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, name="language model", daemon=True)
            self._thread.start()

    @property
    def state(self) -> str:
        """`loading`, `ready`, or why there is no model."""
        if not self._loaded.is_set():
            return "loading"
        return self._problem or "ready"

    def lm(self, wait: float = 60.0) -> LM:
        """The model, once it is loaded.

        Raises:
            ValueError: it cannot be loaded, or is not the model that was indexed.
        """
        self.begin()
        if not self._loaded.wait(wait):
            raise ValueError("the language model is still being loaded: try again in a minute")
        if self._lm is None:
            raise ValueError(f"this page needs the language model, which is missing: {self._problem}")
        return self._lm

    def sae(self, name: str) -> SAE:
        """An SAE of the index.

        Raises:
            ValueError: its folder is gone, or holds other weights than those that were indexed.
        """
        if name not in self._saes:
            self._saes[name] = self._read(name)
        return self._saes[name]

    def _read(self, name: str) -> SAE:
        from matryo.sae.nn import SAE
        from matryo.sae.nn.folder import WEIGHTS
        from matryo.spine.fetch import file_sha256

        told = self.index.sae(name).told
        folder = (self.index.folder.parent / told["folder"]).resolve()
        if not (folder / WEIGHTS).is_file():
            raise ValueError(f"the run of {name}, {folder}, was deleted or moved: this page needs its weights")
        if file_sha256(folder / WEIGHTS) != told["weights_sha256"]:
            raise ValueError(f"{folder} holds other weights than those that were indexed: index it again")
        return SAE.load(folder).to(self._device)

    def _load(self) -> None:
        try:
            self._lm = self._load_model()
        except Exception as error:  # whatever libraries raise: the pages that need no model go on
            self._problem = " ".join(str(error).split())[:500] or type(error).__name__
        finally:
            self._loaded.set()

    def _load_model(self) -> LM:
        from matryo.sae.lm import load_lm, processed

        about: dict[str, Any] = self.index.manifest["about"]
        lm = processed(load_lm(about["lm"], self._device, self._lm_dtype), about.get("processing") or {})
        told = about.get("lm_identity", {}).get("weights")
        if told and lm.identity()["weights"] != told:
            raise ValueError(f"{about['lm']} has other weights than the model that was indexed: index again")
        return lm

"""The training loop: one read of each batch, one step of every autoencoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from matryo.sae.kernels import Mesh
from matryo.sae.nn import SAE, Loss
from matryo.sae.nn.base import unit_scale
from matryo.sae.nn.topk_family import TopKFamily
from matryo.sae.train.batches import Batch, BatchSource, as_batch
from matryo.sae.train.checkpoint import Checkpoints, Stored
from matryo.sae.train.config import TrainConfig
from matryo.sae.train.member import Member
from matryo.sae.train.parallel.sharing import Parallel
from matryo.sae.train.prefetch import Prefetched
from matryo.sae.train.state import collect_state, restore_state
from matryo.spine.config import diff, to_dict

Metrics = dict[str, float]


class Interrupted(Exception):  # noqa: N818 - not an error: everything is saved
    """Training was asked to stop; a checkpoint has been written."""


@dataclass(frozen=True)
class TrainResult:
    """What a run did: steps and tokens, the scale that was folded in, the last metrics of each autoencoder."""

    steps: int
    tokens: int
    scale: float
    seconds: float
    last: dict[str, Metrics]


def train(
    saes: SAE | Iterable[SAE] | Mapping[str, SAE],
    batches: Iterable[Any],
    config: TrainConfig | None = None,
    *,
    calibration: Iterable[Tensor] | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    on_step: Callable[[int, Metrics], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    fresh: bool = True,
    parallel: Parallel | None = None,
) -> TrainResult:
    """Train any number of autoencoders in place, in one pass over the batches.

    Each batch is read once, scaled so that E‖x‖² = d_in (one scale for the run, from `batches.scale` or the first
    batch), and given to every autoencoder in turn. At the end inference thresholds are calibrated and the scale is
    folded in: the autoencoders then take raw activations, in eval mode.

    Args:
        saes: one autoencoder, several, or several by name.
        batches: any iterable of (batch, d_in) tensors, or of (x, target) pairs for transcoders. Begun anew when it ends
            before `config.steps`, if it can be.
        config: the optimiser and schedule.
        calibration: raw activations held back from training, on which inference thresholds are set. Without them the
            mean of the thresholds that the last 20 training batches would have given is used.
        checkpoints: where to write checkpoints.
        resume: go on from the newest checkpoint; weights then equal an uninterrupted run's bit for bit on the same
            machine and thread count.
        on_step: called with (steps done, metrics by "name/metric") every `config.log_every` steps and after the last.
        should_stop: asked after every step; when true a checkpoint is written and `Interrupted` raised.
        fresh: set b_dec and thresholds from the first batch; False to go on training given weights.
        parallel: how the run is shared out among processes, all of which call this with what `parallel.build` gave them
            and the same batches.

    Raises:
        ValueError: no batch, unknown number of steps, widths that differ, NaN or infinite values (the row is named), a
            checkpoint that is damaged or of another configuration. Before errors in the data a checkpoint is written.
        OSError: a checkpoint could not be written; the one before is still there.
        Interrupted: `should_stop` said so.
    """
    config = config or TrainConfig()
    held = None if calibration is None else _checked(calibration)
    source = Prefetched(BatchSource(batches), getattr(batches, "read_ahead", 0))
    run = _Run(_named(saes), source, config, checkpoints, parallel or Parallel())
    with source:
        run.begin(batches, resume, fresh)
        run.loop(on_step, should_stop)
    return run.finish(held)


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self,
        saes: dict[str, SAE],
        source: Prefetched,
        config: TrainConfig,
        checkpoints: Checkpoints | None,
        parallel: Parallel,
    ) -> None:
        for sae in saes.values():
            parallel.attach(sae)
        self.parallel = parallel
        self.members = {name: Member(sae, config) for name, sae in saes.items()}
        self.source, self.config, self.checkpoints = source, config, checkpoints
        self.step, self.tokens, self.scale, self.target_scale = 0, 0, 1.0, 1.0
        self.steps = 0
        self.first: Batch | None = None
        self.began = time.monotonic()
        self.last: dict[str, Metrics] = {}

    def begin(self, batches: Iterable[Any], resume: bool, fresh: bool) -> None:
        self.steps = self.config.steps or _length(batches)
        saved = self.checkpoints.newest() if resume and self.checkpoints else None
        if saved is not None:
            self._restore(saved)
            self.source.limit = self.steps - self.step
            return
        self.source.limit = self.steps
        self.first = self.source.take()
        if self.first is None:
            raise ValueError("there are 0 batches; expected at least one")
        x, target = self.first
        # float(): a store's manifest may hold the scale of all its tokens, which is better than one batch's.
        self.scale = float(getattr(batches, "scale", None) or unit_scale(x))
        self.target_scale = self.scale if target is None else unit_scale(target)
        x, target = self._scaled(self.first)
        for member in self.members.values():
            if fresh:
                member.sae._check_width(x, member.sae.config.d_in, "x")
                member.sae.initialise(x, target)
            else:
                member.sae.rescale(1 / self.scale, 1 / self.target_scale)

    def loop(self, on_step: Callable[[int, Metrics], None] | None, should_stop: Callable[[], bool]) -> None:
        saved_at = self.step
        while self.step < self.steps:
            try:
                batch, failure = self._next(), None
            except (ValueError, OSError) as error:
                batch, failure = None, error
            if self.parallel.agree(int(batch is None)):
                # Damaged or missing data: what was learned so far is kept.
                if self.checkpoints and self.step > saved_at:
                    self._save()
                raise failure or ConnectionError("another process could not read its batch; its own message says why")
            assert batch is not None
            tokens = len(batch[0])
            x, target = self._scaled(self.parallel.cut(batch))
            losses = {name: m.step(x, target, self.step, self.steps) for name, m in self.members.items()}
            self.step += 1
            self.tokens += tokens
            if self.step % self.config.log_every == 0 or self.step == self.steps:
                self._report(losses, x if target is None else target, on_step)
            every = self.config.checkpoint_every
            stop = bool(self.parallel.agree(int(should_stop())))
            if self.checkpoints and (stop or self.step == self.steps or (every and self.step % every == 0)):
                self._save()
                saved_at = self.step
            if stop and self.step < self.steps:
                raise Interrupted(f"stopped at step {self.step}, last checkpoint at step {saved_at}")

    def _next(self) -> Batch:
        batch = self.first or self.source.take()
        self.first = None
        if batch is None:
            raise ValueError(
                f"the batches ended at step {self.step} of {self.steps}; expected more: lower steps, or give an "
                "iterable that can begin anew, such as a list"
            )
        return batch

    @torch.no_grad()
    def finish(self, calibration: list[Batch] | None) -> TrainResult:
        for member in self.members.values():
            sae = member.sae
            if calibration is not None:
                sae.calibrate([self._scaled(self.parallel.cut(batch))[0] for batch in calibration])
            elif isinstance(sae, TopKFamily) and member.boundaries:
                sae.threshold.fill_(sum(member.boundaries) / len(member.boundaries))
            sae.rescale(self.scale, self.target_scale)
            sae.eval()
            if self.parallel.mode == "data":
                sae.mesh = Mesh()  # every process has all of it, and may use it by itself
        return TrainResult(self.step, self.tokens, self.scale, time.monotonic() - self.began, self.last)

    def _scaled(self, batch: Batch) -> Batch:
        x, target = batch
        like = next(iter(self.members.values())).sae.W_dec
        return (
            x.to(like) * self.scale,
            None if target is None else target.to(like) * self.target_scale,
        )

    def _report(self, losses: dict[str, Loss], target: Tensor, on_step: Callable[[int, Metrics], None] | None) -> None:
        rows = self.parallel.mesh.rows
        centre = rows.sum_(target.sum(0)) / self.parallel.mesh.batch(target)
        spread = float(rows.sum_((target - centre).square().sum()))
        elements = self.parallel.mesh.batch(target) * target.shape[1]
        last: dict[str, Metrics] = {}
        for name, loss in losses.items():
            member = self.members[name]
            numbers: Metrics = {
                "loss": float(loss.total.detach()),
                "fvu": float(loss.per_level[-1]) * elements / spread if spread else float("nan"),
                "l0": loss.active,
                "dead": member.dead_fraction(),
                "aux": float(loss.aux),
                "lr": member.optimiser.lr,
            }
            last[name] = numbers
        self.last = self.parallel.merged(last)
        if on_step:
            flat = {f"{name}/{key}": value for name, numbers in self.last.items() for key, value in numbers.items()}
            on_step(self.step, {"tokens": self.tokens, **flat})

    def _save(self) -> None:
        assert self.checkpoints is not None
        parts, values = collect_state(self.members, self.parallel)
        plain: dict[str, Any] = {"tokens": self.tokens, "source": self.source.state()}
        plain |= {
            "config": self._told(),
            "scale": self.scale,
            "target_scale": self.target_scale,
            "last": self.last,
            "members": values,
        }
        self.checkpoints.write(self.step, parts, plain, self.parallel)

    def _told(self) -> dict[str, Any]:
        """Everything in the configurations that the weights depend on."""
        told = to_dict(replace(self.config, steps=self.steps))
        told = {name: value for name, value in told.items() if name not in ("log_every", "checkpoint_every")}
        configs = self.parallel.configs or {name: member.sae.config for name, member in self.members.items()}
        return told | {"sae": {name: to_dict(config) for name, config in configs.items()}}

    def _restore(self, stored: Stored) -> None:
        plain = stored.plain
        saved, given = plain["config"], self._told()
        names = {"saes": list(saved["sae"])}, {"saes": list(given["sae"])}
        if changes := diff(*names) or diff(saved, given):
            raise ValueError(
                f"the checkpoint is of another run ({'; '.join(changes)}); expected the same configuration: resume it "
                "unchanged, or start a new run"
            )
        restore_state(stored, self.members)
        self.step, self.tokens, self.last = plain["step"], plain["tokens"], plain["last"]
        self.scale, self.target_scale = plain["scale"], plain["target_scale"]
        known = getattr(self.source.batches, "scale", None)
        if known is not None and float(known) != self.scale:
            raise ValueError(
                f"the batches have scale {float(known)}; expected {self.scale}, the run's: resume on the same data"
            )
        self.source.restore(plain["source"])


def _checked(calibration: Iterable[Any]) -> list[Batch]:
    """The calibration batches, looked at before training rather than after."""
    batches = [as_batch(item, f"calibration batch {index}") for index, item in enumerate(calibration)]
    if not batches:
        raise ValueError("calibration has 0 batches; expected at least one, or None to use the last training batches")
    return batches


def _named(saes: SAE | Iterable[SAE] | Mapping[str, SAE]) -> dict[str, SAE]:
    if isinstance(saes, SAE):
        saes = [saes]
    named: dict[str, SAE] = {}
    if isinstance(saes, Mapping):
        named = {str(name): sae for name, sae in saes.items()}
    else:
        for sae in saes:
            if sae.config.name in named:
                raise ValueError(
                    f"two SAEs are called {sae.config.name}; expected different ones: give a dict of names"
                )
            named[sae.config.name] = sae
    if not named:
        raise ValueError("there are 0 SAEs; expected at least one")
    return named


def _length(batches: Iterable[Any]) -> int:
    length = len(batches) if hasattr(batches, "__len__") else 0  # pyright: ignore[reportArgumentType]
    if not length:
        raise ValueError("the number of steps is unknown; expected TrainConfig(steps=…) or batches with a length")
    return length

"""What every process of an instrumented run does for `python -m bench.scale --check`; torchrun starts this file."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import torch

from bench.scale import Rates, Setting, seconds
from matryo.sae.kernels import Entries
from matryo.sae.kernels.fused import WeightGradient, decode_with_gradient
from matryo.sae.kernels.tiled import TILE_VALUES, _Lists
from matryo.sae.nn import SAEConfig
from matryo.sae.train.config import TrainConfig
from matryo.sae.train.member import Member
from matryo.sae.train.parallel import Parallel, Processes, open_processes

STEPS, WARM = 19, 4


class Probe:
    """What a process can do while all others do the same, at the sizes of a setting."""

    def __init__(self, s: Setting, processes: Processes) -> None:
        self.s, self.processes = s, processes
        rows, latents = int(s.rows), int(s.latents)
        self.x, self.W = torch.randn(rows, s.d), torch.randn(latents, s.d)
        self.width = min(latents, TILE_VALUES // rows)
        self.out, self.copy = torch.empty(rows, self.width), torch.empty_like(self.W)
        self.tile = torch.randn(rows, self.width).numpy()
        # Few exceed it: as many as are selected.
        share = s.entries / (rows * latents)
        self.cut = np.full(self.width, float(np.quantile(self.tile[:256], 1 - share)), np.float32)
        pair = torch.randperm(rows * latents)[: int(s.entries)]
        self.entries = Entries.from_pairs(pair // latents, pair % latents, torch.rand(len(pair)), rows, latents)
        self.slope = torch.empty(1, rows, s.d)
        self.big, self.small = torch.randn(1 << 20), torch.zeros(1)

    def rates(self) -> Rates:
        """Measured now."""
        s = self.s
        flops = 2 * len(self.x) * len(self.W) * s.d / self._time(self._product)
        stream = 2 * 4 * self.W.numel() / self._time(lambda: self.copy.copy_(self.W))
        rows = 2 * 4 * s.d * len(self.entries.value) / self._time(self._decode)
        lists = _Lists(len(self.x), int(s.entries * 1.3), self.tile.dtype)
        scan = len(self.W) * len(self.x) / self._time(lambda: self._scan(lists))
        handled = len(lists) / self._time(lambda: self._handle(lists))
        given = 2 * (s.processes - 1) / s.processes * 4 * self.big.numel()
        link = max(1.0, given / self._time(lambda: self.processes.sum_(self.big)))
        latency = self._time(lambda: [self.processes.sum_(self.small) for _ in range(10)]) / 10
        return Rates(flops, stream, rows, scan, handled, link, latency)

    def _product(self) -> None:
        for start in range(0, len(self.W), self.width):
            part = self.W[start : start + self.width]
            torch.mm(self.x, part.t(), out=self.out.view(-1)[: len(self.x) * len(part)].view(len(self.x), len(part)))

    def _scan(self, lists: _Lists) -> None:
        bias = np.zeros_like(self.cut)
        for start in range(0, len(self.W), self.width):
            width = min(self.width, len(self.W) - start)
            lists.read(np.ascontiguousarray(self.tile[:, :width]), bias[:width], self.cut[:width], start)

    def _handle(self, lists: _Lists) -> None:
        lists.keep_largest(int(len(lists) * 0.97))
        found = lists.entries(len(self.W))
        assert found.l0 and found.fired.any() and float(found.value.min())
        value, slope = found.value.clone(), self.slope
        WeightGradient(self.W.t(), self.W, self.x, found, value, value, slope, (len(self.W),))

    def _decode(self) -> None:
        levels, weights = (len(self.W),), torch.ones(1)
        entries = self.entries
        decode_with_gradient(entries.value, entries, self.W, self.W[0], self.x, levels, weights, slope=self.slope)

    def _time(self, act: Callable[[], object]) -> float:
        self.processes.max_(torch.zeros(1))  # all begin together
        began = time.perf_counter()
        act()
        return time.perf_counter() - began


def run(s: Setting, processes: Processes) -> dict[str, object]:
    """Some steps of a BatchTopK SAE: bytes and seconds a step, bytes held, latents touched."""
    parallel = Parallel(s.mode, processes)  # type: ignore[arg-type]
    cuts = tuple(s.n * (i + 1) // s.levels for i in range(s.levels))
    config = SAEConfig(d_in=s.d, n_latents=s.n, k=s.k, levels=cuts if s.levels > 1 else "none")
    sae = parallel.build({"a": config})["a"]
    parallel.attach(sae)
    member = Member(sae, TrainConfig(lr=1e-4, clip=float(s.clip)))
    data = torch.randn(STEPS * s.batch, s.d, generator=torch.Generator().manual_seed(1))
    probe = Probe(s, processes)
    spent, given, touched, rates = [], [], [], []
    for step, batch in enumerate(data.split(s.batch)):
        rates.append(torch.tensor(list(asdict(probe.rates()).values()), dtype=torch.float64))
        processes.max_(torch.zeros(1))
        before = sum(processes.traffic.values())
        began = time.perf_counter()
        parallel.agree(0)
        x, _ = parallel.cut((batch, None))
        loss = member.step(x * 1.0, None, step, STEPS)
        parallel.agree(0)
        spent.append(time.perf_counter() - began)
        given.append(sum(processes.traffic.values()) - before)
        touched.append(int(loss.fired.sum()))
    held = sum(value.numel() * value.element_size() for value in (*sae.parameters(), member.silent_tokens))
    held += sum(m.numel() * m.element_size() for own in member.optimiser.moments.values() for m in (own.m, own.v))
    assert member.fused._slope is not None
    held += member.fused._slope.numel() * 4
    s = replace(s, touched=statistics.mean(touched[WARM:]))
    table = torch.stack(rates[WARM:])
    if processes.size > 1:
        # A step has sums that wait for the slowest process, at each moment another one.
        slowest = torch.stack(processes.gather(table))
        table = torch.cat([slowest[..., :-1].amin(0), slowest[..., -1:].amax(0)], 1)
    told = [Rates(*row) for row in table.tolist()]
    return {
        "setting": asdict(s),
        "rates": dict(zip(asdict(told[0]), table.median(0).values.tolist(), strict=True)),
        "seconds": statistics.median(spent[WARM:]),
        "ratio": statistics.median(
            sum(seconds(s, now).values()) / step for now, step in zip(told, spent[WARM:], strict=True)
        ),
        "bytes": round(statistics.mean(given[WARM:])),
        "held": held,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open_processes() as together:
        for setting in json.loads(sys.argv[1]):
            found = run(Setting(**setting), together)
            if together.rank == 0:
                print(json.dumps(found), flush=True)

"""What every process of an instrumented run does for `python -m bench.scale --check`; torchrun starts this file."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch

from bench.scale import Rates, Setting
from matryo.sae.kernels import Entries
from matryo.sae.nn import SAEConfig
from matryo.sae.train.config import TrainConfig
from matryo.sae.train.member import Member
from matryo.sae.train.parallel import Parallel, Processes, open_processes

STEPS, WARM = 12, 4


def measured_rates(s: Setting, processes: Processes) -> Rates:
    """This process's rates while all others measure theirs, at the sizes of a setting."""
    from matryo.sae.kernels.fused import decode_with_gradient

    rows, latents = int(s.rows), int(s.latents)
    x, W, out = torch.randn(rows, s.d), torch.randn(latents, s.d), torch.empty(rows, 512)

    def product() -> None:
        for start in range(0, latents, 512):
            torch.mm(x, W[start : start + 512].t(), out=out[:, : len(W[start : start + 512])])

    flops = 2 * rows * latents * s.d / _median(product, processes)
    copy = torch.empty_like(W)
    stream = 2 * 4 * W.numel() / _median(lambda: copy.copy_(W), processes)
    count = int(s.entries)
    pair = torch.randperm(rows * latents)[:count]
    entries = Entries.from_pairs(pair // latents, pair % latents, torch.rand(count), rows, latents)
    slope, one = torch.empty(1, rows, s.d), torch.ones(1)
    decode = _median(
        lambda: decode_with_gradient(entries.value, entries, W, W[0], x, (latents,), one, slope=slope), processes
    )
    big, small = torch.randn(1 << 22), torch.zeros(1)
    link = 2 * (s.processes - 1) / s.processes * 4 * big.numel() / _median(lambda: processes.sum_(big), processes)
    latency = _median(lambda: processes.sum_(small), processes)
    return Rates(flops, stream, 2 * 4 * s.d * count / decode, max(link, 1.0), latency)


def _median(act: Callable[[], object], processes: Processes, times: int = 7) -> float:
    spent = []
    for _ in range(times):
        processes.max_(torch.zeros(1))  # all begin together
        began = time.perf_counter()
        act()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[1:])


def run(s: Setting, processes: Processes) -> dict[str, object]:
    """Some steps of a BatchTopK SAE: bytes and seconds a step, bytes held, latents touched."""
    parallel = Parallel(s.mode, processes)  # type: ignore[arg-type]
    cuts = tuple(s.n * (i + 1) // s.levels for i in range(s.levels))
    config = SAEConfig(d_in=s.d, n_latents=s.n, k=s.k, levels=cuts if s.levels > 1 else "none")
    sae = parallel.build({"a": config})["a"]
    parallel.attach(sae)
    member = Member(sae, TrainConfig(lr=1e-4, clip=float(s.clip)))
    # Some latents point where the data lie, as in a dictionary that has learned; bytes do not depend on it, rows do.
    data = torch.randn(STEPS * s.batch, s.d, generator=torch.Generator().manual_seed(1))
    rates = measured_rates(s, processes)
    spent, given, touched = [], [], []
    for step, batch in enumerate(data.split(s.batch)):
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
    everyone = [torch.tensor([getattr(rates, name) for name in asdict(rates)], dtype=torch.float64)]
    if processes.size > 1:
        everyone = processes.gather(everyone[0])
    mean = torch.stack(everyone).mean(0).tolist()
    return {
        "setting": asdict(replace(s, touched=statistics.mean(touched[WARM:]))),
        "rates": dict(zip(asdict(rates), mean, strict=True)),
        "seconds": statistics.median(spent[WARM:]),
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

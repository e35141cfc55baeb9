"""The sections that compare libraries: training steps, steps with dead latents, encoding."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from bench.contender import KINDS, Contender, NotOffered, Task
from bench.peers import contenders
from bench.timing import Entrant, Product, against, interleave, summary, told
from bench.workload import Shape, Workload, fvu, make

Row = dict[str, Any]

DEAD_FRACTION = 0.1


def time_steps(kind: str, shape: Shape, rounds: int, warm: int) -> Row:
    """Every library's training step of one kind, nothing dead; JumpReLU and ReLU peers in every second round."""
    work = make(shape, n_batches=min(3, rounds))
    return _compare(kind, Task(kind, shape), work, rounds, warm, peers_every=2 if kind in ("jumprelu", "relu") else 1)


def time_steps_with_dead(kind: str, shape: Shape, rounds: int, warm: int) -> Row:
    """The same with a tenth of the latents dead and the auxiliary loss at work; peers in every second round."""
    work = make(shape, DEAD_FRACTION, n_batches=min(3, rounds))
    return _compare(kind, Task(kind, shape, aux=True), work, rounds, warm, peers_every=2)


def time_encoding(kind: str, shape: Shape, rounds: int, warm: int) -> Row:
    """Latents of a batch by the rule of inference: one threshold for BatchTopK, the k largest for TopK."""
    task, work = Task(kind, shape), make(shape)
    plain = [c for c in contenders(kind) if c.variant == ""]
    rows, entrants = _enter(plain, work, lambda c: c.setup_encoder(task, work), lambda c: c.encode)
    with torch.no_grad():
        interleave(entrants.values(), rounds, warm)
        for name, entrant in entrants.items():
            if entrant.error is None:
                chosen = next(c for c in plain if c.name == name)
                rows[name]["l0"] = chosen.active(chosen.encode(work.batches[0]))
    return _finish(rows, entrants, shape)


def _compare(kind: str, task: Task, work: Workload, rounds: int, warm: int, peers_every: int) -> Row:
    """Set up all contenders, look at their reconstructions, time them in turn, look again."""
    # With dead latents clipping is not measured a second time.
    entered = [c for c in contenders(kind) if not (task.aux and c.variant == "clipped")]

    def setup(contender: Contender) -> None:
        contender.setup(task, work)
        if task.aux:
            contender.mark_dead(work.dead)

    rows, entrants = _enter(entered, work, setup, lambda c: c.step)
    by_name = {c.name: c for c in entered}
    for name, entrant in entrants.items():
        entrant.every = 1 if by_name[name].library == "matryo" else peers_every
        rows[name] |= {f"{key}_before": value for key, value in _look(by_name[name], task, work).items()}
    interleave(entrants.values(), rounds, warm)
    for name, entrant in entrants.items():
        if entrant.error is None:
            rows[name] |= _look(by_name[name], task, work)
            rows[name]["loss_fell"] = _fall(by_name[name].losses, entrant.visited)
            rows[name]["doubts"] = _doubts(rows[name], task)
    return _finish(rows, entrants, task.shape)


def _enter(
    entered: list[Contender], work: Workload, setup: Callable[[Contender], None], run: Callable[[Contender], Any]
) -> tuple[dict[str, Row], dict[str, Entrant]]:
    """A row for every contender, and an entrant for each whose setup succeeded."""
    rows: dict[str, Row] = {}
    entrants: dict[str, Entrant] = {}
    product = Product(work.batches[0], work.enc_rows)
    for contender in entered:
        row: Row = {"library": contender.library, "version": contender.version, "variant": contender.variant}
        rows[contender.name] = row
        try:
            setup(contender)
        except NotOffered as answer:
            row |= {"state": "not offered", "why": str(answer)}
        except ImportError as error:
            row |= {"state": "missing", "why": told(error)}
        except Exception as error:
            traceback.print_exc()
            row |= {"state": "failed", "why": told(error)}
        else:
            entrants[contender.name] = Entrant(contender.name, run(contender), product, work.batches)
        print(f"  {contender.name}: {row.get('state', 'ready')}", file=sys.stderr, flush=True)
    return rows, entrants


def _look(contender: Contender, task: Task, work: Workload) -> Row:
    """FVU and L0 over all batches by the rule of training, and how many latents the library holds for dead."""
    seen = [(fvu(x, x_hat), l0) for x in work.batches for x_hat, l0 in [contender.reconstruct(x)]]
    found: Row = {"fvu": sum(f for f, _ in seen) / len(seen), "l0": sum(l0 for _, l0 in seen) / len(seen)}
    return found | ({"dead": contender.dead_count()} if task.aux else {})


def _fall(losses: list[float], visited: list[int]) -> float | None:
    """By how much the loss on a batch fell between its first and last visit, over all batches visited twice."""
    first, last = dict(zip(visited[::-1], losses[::-1], strict=True)), dict(zip(visited, losses, strict=True))
    twice = [batch for batch in first if visited.count(batch) > 1]
    return sum(first[batch] - last[batch] for batch in twice) / len(twice) if twice else None


def _doubts(row: Row, task: Task) -> list[str]:
    """What would make the timing of a contender one of other work than was asked."""
    doubts = []
    k = task.shape.k
    # A sparsity penalty may fall at the cost of the FVU, so the library's own loss counts first.
    fell = row["loss_fell"] if row["loss_fell"] is not None else row["fvu_before"] - row["fvu"]
    if not fell > 0:
        doubts.append(f"its loss did not fall ({-fell:+.2g}; FVU {row['fvu_before']:.5f} → {row['fvu']:.5f})")
    exact = task.kind not in ("jumprelu", "relu")
    low, high = (0.95 * k, 1.001 * k) if exact else (0.5 * k, 2 * k)
    if not low <= row["l0"] <= high:
        doubts.append(f"L0 is {row['l0']:.1f} where {k} was asked")
    planned = int(DEAD_FRACTION * task.shape.n_latents)
    if task.aux and not 0.9 * planned <= row["dead"] <= 1.1 * planned:
        doubts.append(f"{row['dead']} latents are dead in its books where {planned} were")
    return doubts


def _finish(rows: dict[str, Row], entrants: dict[str, Entrant], shape: Shape) -> Row:
    ours = next((e for e in entrants.values() if e.name == "matryo" and e.error is None), None)
    for name, entrant in entrants.items():
        if entrant.error is not None:
            rows[name] |= {"state": "failed", "why": entrant.error}
            continue
        rows[name] |= {
            "state": "measured",
            "seconds": summary(entrant.seconds),
            "product_seconds": summary(entrant.products),
            "ratio": summary(entrant.ratios),
            "times_ours": summary(against(entrant, ours)) if ours else None,
            "raw": {"seconds": entrant.seconds, "products": entrant.products, "rounds": entrant.rounds},
        }
    everything = [p for e in entrants.values() for p in e.products]
    gflops = shape.flops / summary(everything)["median"] / 1e9 if everything else None
    return {"shape": vars(shape), "product_gflops": gflops, "rows": list(rows.values())}


def all_notes() -> dict[str, str]:
    """What differs between the libraries' work."""
    return {c.library: c.notes for kind in KINDS for c in contenders(kind)}

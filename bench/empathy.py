"""The empathy room's speed: environment, ensemble, and the ensemble beside single runs in CleanRL's style.

    python bench/empathy.py [--steps 600] [--rounds 8] [--skip-peers]

All in one run, two threads or processes in all:

* environment: steps a second of the vector environment, both agents' views and infos included, random actions;
* ensemble: 25 members (5 β × 5 seeds), replay ratio 1, batch 32, everything counted (games, exploration, memory, both
  updates), as a flop rate against a 2,048³ matrix product on two threads timed in turn; a member-step is 11.65 MFLOP:
  nine products of 32 rows through 25-128-128-5 (Q_T on two views, Q on the next view, two networks forward and
  backward). Members shared among one thread and among two;
* peers: two processes at once, each a single Empathic DQN in the way of CleanRL's dqn.py: one Gymnasium environment,
  nn.Sequential, autograd, torch.optim.Adam, a replay buffer of arrays. Written here for the comparison, not copied.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import numpy as np

MEMBER_STEP_FLOP = 9 * 32 * 2 * (25 * 128 + 128 * 128 + 128 * 5)


def time_environments(seconds: float = 1.0) -> list[dict[str, float | str]]:
    from matryo.empathy.envs import GridworldVectorEnv

    told = []
    for world in ("coexistence", "sharing"):
        for rules in ("published", "corrected"):
            for count in (1024, 4096):
                env = GridworldVectorEnv(count, world, rules)
                env.reset(seed=0)
                actions = np.random.default_rng(0).integers(0, 5, (16, count))
                for i in range(20):
                    env.step(actions[i % 16])
                rates = []
                for _ in range(3):
                    began, steps = time.perf_counter(), 0
                    while time.perf_counter() - began < seconds / 3:
                        env.step(actions[steps % 16])
                        steps += 1
                    rates.append(steps * count / (time.perf_counter() - began))
                told.append({"world": world, "rules": rules, "envs": count, "steps_per_s": statistics.median(rates)})
    return told


def time_ensemble(steps: int, rounds: int, threads: int) -> dict:
    import torch

    from matryo.empathy.agents import EmpathicDQN, LearnConfig, MemberConfig
    from matryo.empathy.envs import make_rules, make_world
    from matryo.empathy.train import Training

    world = make_world("coexistence", make_rules("published"))
    members = [MemberConfig(selfishness=beta, seed=seed) for beta in (0, 0.25, 0.5, 0.75, 1) for seed in range(5)]
    learn = LearnConfig(steps=10**6, prefill=1000, buffer=50_000)
    training = Training(world, EmpathicDQN(members, 1, 1, learn, threads))
    training.fill()
    a, b, out = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    rates, products = [], []
    for i in range(rounds + 1):
        torch.set_num_threads(2)
        torch.mm(a, b, out=out)
        began = time.perf_counter()
        for _ in range(3):
            torch.mm(a, b, out=out)
        product = 3 * 2 * 2048**3 / (time.perf_counter() - began)
        torch.set_num_threads(1)  # as `matryo empathy train` does
        training.tally.learned(training.step())
        began = time.perf_counter()
        for _ in range(steps // rounds):
            training.tally.learned(training.step())
        if i:  # the first round warms up
            products.append(product)
            rates.append(steps // rounds * len(members) / (time.perf_counter() - began))
    shares = sorted(rate * MEMBER_STEP_FLOP / product for rate, product in zip(rates, products, strict=True))
    return {
        "members": len(members),
        "threads": threads,
        "member_steps_per_s": statistics.median(rates),
        "gflops": statistics.median(rates) * MEMBER_STEP_FLOP / 1e9,
        "matmul_gflops": statistics.median(products) / 1e9,
        "share_of_matmul": statistics.median(shares),
        "share_low": shares[0],
        "share_high": shares[-1],
    }


def run_single(seconds: float) -> float:
    """One Empathic DQN in CleanRL's style; returns steps a second after a warm-up."""
    import gymnasium
    import torch
    from torch import nn

    import matryo.empathy.envs  # noqa: F401 - registers the environment

    torch.set_num_threads(1)
    env = gymnasium.make("matryo/Coexistence-v0", rules="published")

    def network() -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(25, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)]
        return nn.Sequential(*layers)

    q, q_emp, target = network(), network(), network()
    target.load_state_dict(q.state_dict())
    optimisers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (q, q_emp)]
    size, beta, gamma, rng = 50_000, 0.5, 0.99, np.random.default_rng(0)
    obs_b, next_b, other_b = (np.zeros((size, 1, 5, 5), dtype=np.uint8) for _ in range(3))
    action_b, reward_b, over_b = np.zeros(size, dtype=np.int64), np.zeros(size, np.float32), np.zeros(size, np.float32)
    obs, _ = env.reset(seed=0)
    began, counted, step = 0.0, 0, 0
    while True:
        if rng.random() < 0.1 or step < 1000:
            action = int(rng.integers(5))
        else:
            with torch.no_grad():
                action = int(q_emp(torch.as_tensor(obs[None]).float() / 100).argmax())
        following, reward, terminated, truncated, info = env.step(action)
        at = step % size
        obs_b[at], next_b[at], other_b[at] = obs, following, info["other_obs"][0]
        action_b[at], reward_b[at], over_b[at] = action, reward, terminated
        obs = env.reset()[0] if terminated or truncated else following
        step += 1
        if step <= 1000:
            continue
        if step == 1100:
            began = time.perf_counter()
        if step > 1100:
            counted += 1
            if counted % 50 == 0 and time.perf_counter() - began > seconds:
                return counted / (time.perf_counter() - began)
        rows = rng.integers(0, min(step, size), 32)
        s, s2, s3 = (torch.as_tensor(part[rows]).float() / 100 for part in (obs_b, next_b, other_b))
        a, r, d = (
            torch.as_tensor(action_b[rows])[:, None],
            torch.as_tensor(reward_b[rows]),
            torch.as_tensor(over_b[rows]),
        )
        with torch.no_grad():
            best = q(s2).argmax(1, keepdim=True)
            y_self = r + gamma * (1 - d) * target(s2).gather(1, best)[:, 0]
            y_emp = beta * y_self + (1 - beta) * gamma * target(s3).max(1).values
        for net, optimiser, y in zip((q, q_emp), optimisers, (y_self, y_emp), strict=True):
            loss = nn.functional.mse_loss(net(s).gather(1, a)[:, 0], y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if step % 10_000 == 0:
            target.load_state_dict(q.state_dict())


def time_singles(seconds: float) -> dict[str, float]:
    call = [sys.executable, __file__, "--single", str(seconds)]
    both = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    rates = [float(one.communicate()[0]) for one in both]
    return {"processes": 2, "steps_per_s_each": statistics.mean(rates), "steps_per_s": sum(rates)}


def time_ensembles(steps: int, rounds: int) -> list[dict]:
    """Each in a process of its own."""
    told = []
    for threads in (1, 2):
        call = [sys.executable, __file__, "--ensemble", str(threads), "--steps", str(steps), "--rounds", str(rounds)]
        told.append(json.loads(subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument("--single", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--ensemble", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "empathy.json")
    options = parser.parse_args()
    if options.single:
        print(run_single(options.single))
        return
    if options.ensemble:
        print(json.dumps(time_ensemble(options.steps, options.rounds, options.ensemble)))
        return
    told: dict = {"environments": time_environments()}
    for row in told["environments"]:
        print(
            f"{row['world']:12} {row['rules']:10} {row['envs']:5} envs: {row['steps_per_s'] / 1e6:.2f} M steps/s",
            flush=True,
        )
    told["ensembles"] = time_ensembles(options.steps, options.rounds)
    for row in told["ensembles"]:
        low, middle, high = (f"{100 * row[key]:.0f}" for key in ("share_low", "share_of_matmul", "share_high"))
        print(
            f"ensemble of {row['members']}, {row['threads']} threads: "
            f"{row['member_steps_per_s']:,.0f} member-steps/s, {row['gflops']:.1f} GFLOP/s, "
            f"{middle} % ({low}–{high}) of the matrix product's {row['matmul_gflops']:.1f}",
            flush=True,
        )
    if not options.skip_peers:
        single = told["singles"] = time_singles(options.seconds)
        best = max(row["member_steps_per_s"] for row in told["ensembles"])
        told["ratio"] = best / single["steps_per_s"]
        print(f"two single runs: {single['steps_per_s']:,.0f} steps/s; the best ensemble {told['ratio']:.1f}× as many")
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Phenology: what the fit costs beside scipy and zeit, and what its errors and intervals promise.

    python bench/phenology.py [speed] [coverage] [studies] [raster] [zeit] [--zeit-python PATH]

speed      the same series by `scipy.optimize.curve_fit` with bounds and by us on one thread, in turn, and agreement
raster     pixel-seasons a minute with dates and standard errors, and peak memory of two raster sizes at one block size
coverage   RMSE over the Cramér-Rao bound and coverage of t(n − p) intervals, 5,000 series at 21 and 12 visits
studies    coverage and width of the soil slope's 95 % interval over 1,000 simulated studies
zeit       zeit-cdts beside us; needs its own environment (it is GPL-2, and 3 GB with what it needs):
           python3 -m venv /somewhere && /somewhere/bin/pip install -c constraints.txt zeit-cdts

Without names, all but zeit. Nothing here is a test; figures with their dates are in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from scipy import stats
from scipy.optimize import curve_fit

WINDOW = (1.0, 366.0)
TRUTH = np.array([0.3, 0.4, 140.0, 0.1, 255.0, 0.1])
NAMES = ("sos_der_doy", "pos_doy", "eos_der_doy")


def beck(t, base, amplitude, sos, rsp, eos, rau):
    return base + amplitude * (1 / (1 + np.exp(-rsp * (t - sos))) + 1 / (1 + np.exp(rau * (t - eos))) - 1)


def mixed(n: int, rng: np.random.Generator) -> np.ndarray:
    low, high = [0.25, 0.3, 120, 0.05, 240, 0.05], [0.4, 0.5, 160, 0.15, 270, 0.15]
    return rng.uniform(low, high, (n, 6))


def draw(p: np.ndarray, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return beck(t, *p.T[:, :, None]) + rng.normal(0, 0.02, (len(p), len(t)))


def speed(rounds: int = 5, each: int = 300) -> dict[str, float]:
    """CPU microseconds a fit: ours on one thread, scipy's bounded curve_fit, on the same series, in turn.

    Processor time of one thread, so that what else the machine does is not counted against either.
    """
    from matryo.phenology.curves import curve
    from matryo.phenology.fit import FitConfig, fit_curves
    from matryo.phenology.fit.many import bounds

    rng, t = np.random.default_rng(0), np.linspace(90, 290, 21)
    lo, hi = bounds(curve("beck"), FitConfig(), WINDOW)
    y = draw(mixed(rounds * 20 * each, rng), t, rng)
    one = FitConfig(threads=1)
    fit_curves(t, y[:10], None, one)
    ours, theirs, agree, both = [], [], 0, 0
    for r in range(rounds):
        block = y[r * 20 * each : (r + 1) * 20 * each]
        began = time.process_time()
        found = fit_curves(t, block, None, one)
        ours.append((time.process_time() - began) / len(block))
        began, dates = time.process_time(), np.full(each, np.nan)
        for i in range(each):
            start = [np.quantile(block[i], 0.05), np.ptp(block[i]), 140.0, 0.1, 255.0, 0.1]
            try:
                dates[i] = curve_fit(beck, t, block[i], p0=np.clip(start, lo, hi), bounds=(lo, hi), maxfev=5000)[0][2]
            except RuntimeError:
                continue
        theirs.append((time.process_time() - began) / each)
        known = np.isfinite(dates) & (found.flags[:each] & 8 == 0)
        both += int(known.sum())
        agree += int((np.abs(dates - found.parameters[:each, 2])[known] <= 0.1).sum())
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return {
        "ours_us": 1e6 * median(ours), "curve_fit_us": 1e6 * median(theirs), "ratio": median(ratios),
        "ratio_low": ratios[0], "ratio_high": ratios[-1], "agree_percent": 100 * agree / both, "compared": both,
    }  # fmt: skip


def raster_child(side: int, chunk: int) -> None:
    """Fit a raster into a Zarr store and print seconds and this process's peak memory."""
    from matryo.phenology.commands.raster import write
    from matryo.phenology.fit import FitConfig
    from matryo.phenology.raster import fit_raster, synthetic_raster

    warm = fit_raster(synthetic_raster(8, 8, 8), FitConfig())
    warm.compute(scheduler="threads")
    stack = synthetic_raster(side, side, chunk)
    if side * side * stack.sizes["time"] * 8 < 2**30:
        stack = stack.compute().chunk({"y": chunk, "x": chunk})  # so that making the data is not timed
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write(fit_raster(stack, FitConfig()), Path(folder) / "out.zarr")
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def child(call: str, python: str = sys.executable) -> dict:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import phenology as bench; bench.{call}"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def lazy_child(side: int, chunk: int) -> None:
    """As raster_child, with data made block by block, so that peak memory is the fit's own."""
    import matryo.phenology.raster as room
    from matryo.phenology.commands.raster import write
    from matryo.phenology.fit import FitConfig

    stack = room.synthetic_raster(side, side, chunk)
    with tempfile.TemporaryDirectory() as folder:
        write(room.fit_raster(stack, FitConfig()), Path(folder) / "out.zarr")
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def raster() -> dict[str, float]:
    timed = child("raster_child(500, 125)")
    small, large = child("lazy_child(256, 64)")["peak_mib"], child("lazy_child(768, 64)")["peak_mib"]
    return {
        "pixel_seasons_per_minute": 60 * 500**2 / timed["seconds"], "peak_mib_65k_pixels": small,
        "peak_mib_590k_pixels": large,
    }  # fmt: skip


def coverage(n: int = 5000) -> dict[str, dict]:
    from matryo.phenology.curves import curve, evaluate_gradients
    from matryo.phenology.fit import fit_curves
    from matryo.phenology.season import measure

    form, out = curve("beck"), {}
    for m in (21, 12):
        t, rng, q = np.linspace(90, 290, m), np.random.default_rng(m), stats.t.ppf(0.975, m - 6)
        for label, p in (("one truth", np.repeat(TRUTH[None], n, 0)), ("mixed truths", mixed(n, rng))):
            fits = fit_curves(t, draw(p, t, rng))
            found = measure(form, fits.parameters, fits.covariance, WINDOW)
            J = evaluate_gradients(form, p, np.broadcast_to(t, (n, m)))
            limit = measure(form, p, 0.02**2 * np.linalg.inv(np.einsum("nti,ntj->nij", J, J)), WINDOW)
            clear, row = fits.flags == 0, {"flagged_percent": 100 * float(np.mean(fits.flags > 0))}
            for name in NAMES:
                error = np.abs(found[name] - limit[name])
                inside = error <= q * found.error(name)
                row |= {
                    f"{name} covered, all": float(inside.mean()),
                    f"{name} covered, unflagged": float(inside[clear].mean()),
                }
                row |= {f"{name} median error/bound": float(np.nanmedian(error / limit.error(name)))}
            error = found["sos_der_doy"] - limit["sos_der_doy"]
            row["sos rmse/bound"] = float(np.sqrt(np.nanmean(error**2 / limit.error("sos_der_doy") ** 2)))
            row["sos bound, days (median)"] = float(np.median(limit.error("sos_der_doy")))
            out[f"{m} visits, {label}"] = row
    return out


def studies(n: int = 1000) -> dict[str, float]:
    from tests.phenology.models.studies import made_study

    from matryo.phenology.explain import soil_slope

    covered, width, plain = 0, [], []
    for seed in range(n):
        study = made_study(plots=50, years=6, seed=seed)
        found = soil_slope(study)
        covered += found.low <= -1.5 <= found.high
        width.append(found.high - found.low)
        year = np.unique(study.season, return_inverse=True)[1]
        plot = np.unique(study.plot, return_inverse=True)[1]
        x, y = (v - (np.bincount(year, v) / np.bincount(year))[year] for v in (study.drivers(0)[:, 0], study.y))
        fit = stats.linregress(np.bincount(plot, x), np.bincount(plot, y))
        plain.append(2 * stats.t.ppf(0.975, 48) * fit.stderr)
    return {"covered": covered / n, "width/plot means": float(np.mean(width) / np.mean(plain))}


ZEIT = """
import json, sys, time
import numpy as np
from zeit import _core
data = np.load(sys.argv[1])
def run(y, t, seasons):
    core = _core.phenology
    began = time.process_time()
    curve, method = int(core.CurveType.BECK), int(core.ExtractionMethod.DERIVATIVE)
    out = core.fit_phenology_batch(y, t, curve, method, seasons, n_jobs=1)
    return time.process_time() - began, np.asarray(out)
run(data["dense"][:20], data["dense_t"], 4)
seconds, out = run(data["dense"], data["dense_t"], 4)
_, sparse = run(data["sparse"], data["sparse_t"], 1)
peaks = np.isfinite(out[18]) & (out[18] > 0)
found = np.isfinite(sparse[18]) & (sparse[18] > 0)
print(json.dumps({"seconds": seconds, "seasons": int(peaks.sum()), "sparse": float(found[:, 0].mean())}))
"""
"""What runs in zeit's environment: its batch function (version 2.2.0), defaults but for one job and Beck's curve.

Row 18 is the time of the peak, which every fitted season has.
"""


def zeit(python: str, pixels: int = 2000, rounds: int = 3) -> dict[str, float]:
    """CPU seconds a season, one thread each, in turn: three 8-daily years a pixel; share of sparse years fitted."""
    from matryo.phenology.fit import FitConfig, fit_curves
    from matryo.phenology.season import measure

    rng, year = np.random.default_rng(0), np.arange(1.0, 366.0, 8)
    p = mixed(3 * pixels, rng)
    seasons, sparse_t = draw(p, year, rng), np.round(np.linspace(90, 290, 21))
    sparse, one = draw(mixed(pixels, rng), sparse_t, rng), FitConfig(threads=1)
    dense_t = np.concatenate([year + 365 * k for k in range(3)])
    ours, theirs, last = [], [], {}

    def fit(t: np.ndarray, y: np.ndarray):
        fits = fit_curves(t, y, None, one)
        return fits, measure(fits.curve, fits.parameters, fits.covariance, WINDOW, 1)

    fit(year, seasons[:10])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "series.npz"
        np.savez(place, dense=seasons.reshape(pixels, -1), dense_t=dense_t, sparse=sparse, sparse_t=sparse_t)
        for _ in range(rounds):
            began = time.process_time()
            fit(year, seasons)
            ours.append((time.process_time() - began) / len(seasons))
            done = subprocess.run([python, "-c", ZEIT, str(place)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{done.stderr}\nzeit-cdts is not in {python}: see the top of this file")
            last = json.loads(done.stdout.strip().splitlines()[-1])
            theirs.append(last["seconds"] / last["seasons"])
    fits, found = fit(sparse_t, sparse)
    dated = np.isfinite(found["sos_der_doy"]) & (fits.flags & 9 == 0)
    return {
        "ours_us_per_season": 1e6 * median(ours), "zeit_us_per_found_season": 1e6 * median(theirs),
        "zeit_us_per_season": 1e6 * median(theirs) * last["seasons"] / len(seasons),
        "zeit_found_percent": 100 * last["seasons"] / len(seasons),
        "sparse_fitted_percent": 100 * float(dated.mean()), "sparse_zeit_percent": 100 * last["sparse"],
    }  # fmt: skip


def main() -> None:
    """Print every figure asked for, and write them as JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["speed", "raster", "coverage", "studies", "zeit"])
    parser.add_argument("--zeit-python", default=sys.executable, help="Python of the environment with zeit-cdts")
    parser.add_argument("--out", type=Path, default=Path("bench/results/phenology.json"))
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.what or ["speed", "raster", "coverage", "studies"]:
        given = (options.zeit_python,) if name == "zeit" else ()
        found[name] = {"cpus": os.cpu_count()} | globals()[name](*given)
        print(name, json.dumps(found[name], indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

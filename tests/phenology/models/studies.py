"""Studies from known coefficients."""

import numpy as np
import pandas as pd

from matryo.phenology.models import Study


def made_study(plots=20, years=6, slope=-1.5, air=-2.0, plot_sd=2.0, year_sd=1.0, noise=1.0, seed=0, shared_soil=False):
    """A target with plot and year effects, soil temperature by plot, weather by year; errors of 1 to 3 days."""
    rng = np.random.default_rng(seed)
    plot, year = np.repeat(np.arange(plots), years), np.tile(np.arange(years), plots)
    soil = 5 + (rng.uniform(0, 10, plots)[plot] if not shared_soil else 0) + rng.normal(0, 1, years)[year]
    soil = soil + (rng.normal(0, 0.3, plots * years) if not shared_soil else 0)
    weather, rain = rng.normal(4, 1.5, years)[year], rng.gamma(2, 30, years)[year]
    se = rng.uniform(1, 3, plots * years)
    y = 160 + slope * soil + air * weather + rng.normal(0, plot_sd, plots)[plot] + rng.normal(0, year_sd, years)[year]
    y = y + rng.normal(0, noise, len(y)) + rng.normal(0, 1, len(y)) * se
    keys = pd.DataFrame({"plot": [f"P{p:02d}" for p in plot], "season": 2014 + year})
    keys["transect"] = [f"T{p // 5}" for p in plot]
    X = np.column_stack([soil, weather, rain])
    return Study("sos", keys, y, se, y, ("soil_t", "air_t", "precip"), lambda cutoff: X, None, {})

"""A synthetic site with a known truth: a grassland on a soil-warming gradient, visited with a hand-held sensor.

For plot i in year j, with soil temperature T (mean of the 60 days before day 105) and A, the year's anomaly of air
temperature in spring,

    SOS = 150 − 1.5·(T − 5) − 2.0·A + plot + year + e        plot ~ N(0, 2²), year ~ N(0, 1²), e ~ N(0, 1²) days
    POS = SOS + 50 + e'                                      e' ~ N(0, 1²): so −1.5 days/°C too
    PEAK = 0.68 + 0.003·(T − 5) + plot' + e''                plot' ~ N(0, 0.02²), e'' ~ N(0, 0.01²)

and NDVI follows the Beck curve with these dates, with normal errors of 0.02 and one visit in a hundred under a cloud.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.curves import curve, evaluate_many
from matryo.phenology.synthetic.config import AIR_SLOPE, PEAK_SLOPE, SOIL_SLOPE, SyntheticConfig
from matryo.spine.seeding import numpy_generator

if TYPE_CHECKING:
    import pandas as pd

FIRST_YEAR = 2014
WARMING = (0.0, 1.0, 3.0, 5.0, 10.0)
"""Soil warming of a transect's plots in °C, before a jitter: cold to hot along the gradient."""

TRUTH_DAYS = (45, 105)
"""Days of the year whose mean soil and air temperature act on the season: [first, last)."""


@dataclass(frozen=True)
class SyntheticSite:
    """Tables as a user has them, and the truth.

    Attributes:
        ndvi: plot, site, transect, date, ndvi: one row for each visit.
        soil: plot, date, soil_t in °C, daily.
        weather: site, date, air_t in °C, precip in mm, irradiance in W/m², daily.
        truth: plot, season, sos_doy, pos_doy, peak_ndvi, eos_doy, soil_t.
    """

    ndvi: "pd.DataFrame"
    soil: "pd.DataFrame"
    weather: "pd.DataFrame"
    truth: "pd.DataFrame"


def make_site(config: SyntheticConfig | None = None, seed: int = 0) -> SyntheticSite:
    """Make the synthetic site; the same seed gives the same site."""
    import pandas as pd

    config = config or SyntheticConfig()
    rng = numpy_generator(seed, "phenology", "site")
    plots = pd.DataFrame({"plot": [f"P{i + 1:02d}" for i in range(config.plots)]})
    number = np.arange(config.plots)
    plots["transect"] = [f"T{i // 5 + 1:02d}" for i in number]
    plots["site"] = np.where(number < (config.plots + 1) // 2, "old", "new")  # warmed long ago, and lately
    warming = np.array(WARMING)[number % 5] * rng.uniform(0.8, 1.2, config.plots) + rng.normal(0, 0.3, config.plots)
    days = pd.date_range(f"{FIRST_YEAR - 1}-10-01", f"{FIRST_YEAR + config.years - 1}-12-31", freq="D")
    weather, air = _weather(days, config.years, rng)
    soil = _soil(days, air, warming, rng)  # (plots, days)
    truth = _truth(plots, config, days, air, soil, rng)
    ndvi = _visits(plots, truth, config, rng)
    soil_table = pd.DataFrame(
        {
            "plot": np.repeat(plots["plot"].to_numpy(), len(days)),
            "date": np.tile(days, config.plots),
            "soil_t": soil.ravel().round(3),
        }
    )
    sites = [weather.assign(site=site) for site in dict.fromkeys(plots["site"])]
    return SyntheticSite(ndvi, soil_table, pd.concat(sites, ignore_index=True), truth)


def _weather(days, years: int, rng: np.random.Generator):
    """Daily weather that all plots share; its spring differs from year to year by N(0, 1.5²) °C."""
    import pandas as pd

    doy, n = days.day_of_year.to_numpy(), len(days)
    year = np.clip(days.year.to_numpy() - FIRST_YEAR, 0, None)
    winter = (doy > 270) & (year < years - 1) & (days.year >= FIRST_YEAR)  # it belongs to the spring after it
    year = np.where(winter, year + 1, year)
    anomaly = rng.normal(0, 1.5, years)
    noise = np.zeros(n)
    for k in range(1, n):
        noise[k] = 0.8 * noise[k - 1] + rng.normal(0, 1.3)
    spring = np.exp(-0.5 * ((doy - 75) / 40) ** 2)
    air = 5.0 - 7.0 * np.cos(2 * np.pi * (doy - 20) / 365.25) + noise + anomaly[year] * (0.3 + spring)
    wet = rng.random(n) < 0.45
    precip = np.where(wet, rng.gamma(0.8, 5.0, n), 0.0) * rng.lognormal(0, 0.3, years)[year]
    clear = 120 - 110 * np.cos(2 * np.pi * (doy + 10) / 365.25)
    irradiance = clear * np.clip(rng.normal(0.75, 0.2, n) - 0.25 * wet, 0.1, 1.0)
    columns = {"date": days, "air_t": air.round(3), "precip": precip.round(3), "irradiance": irradiance.round(3)}
    return pd.DataFrame(columns), air


def _soil(days, air: np.ndarray, warming: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Daily soil temperature, (plots, days): smoothed air temperature, the plot's warming, and a drift of a year."""
    smooth = np.empty(len(air))
    smooth[0] = air[0]
    for k in range(1, len(air)):
        smooth[k] = 0.95 * smooth[k - 1] + 0.05 * air[k]
    years = days.year.to_numpy() - days.year.min()
    drift = rng.normal(0, 0.3, (len(warming), years.max() + 1))[:, years]
    return 1.5 + 0.7 * smooth + warming[:, None] + drift + rng.normal(0, 0.2, (len(warming), len(air)))


def _truth(plots, config: SyntheticConfig, days, air, soil, rng):
    import pandas as pd

    rows, plot_days = [], rng.normal(0, 2.0, config.plots)
    plot_peak = rng.normal(0, 0.02, config.plots)
    doy = days.day_of_year.to_numpy()
    acting = (doy >= TRUTH_DAYS[0]) & (doy < TRUTH_DAYS[1])
    normal = air[acting].mean()
    for j in range(config.years):
        here = acting & (days.year.to_numpy() == FIRST_YEAR + j)
        warm = soil[:, here].mean(axis=1)
        sos = 150 + SOIL_SLOPE * (warm - 5) + AIR_SLOPE * (air[here].mean() - normal)
        sos += plot_days + rng.normal(0, 1.0) + rng.normal(0, 1.0, config.plots)
        pos = sos + 50 + rng.normal(0, 1.0, config.plots)
        peak = 0.68 + PEAK_SLOPE * (warm - 5) + plot_peak + rng.normal(0, 0.01, config.plots)
        one = {"sos_doy": sos, "pos_doy": pos, "peak_ndvi": peak, "soil_t": warm}
        rows.append(plots[["plot"]].assign(season=FIRST_YEAR + j, **one))
    truth = pd.concat(rows, ignore_index=True)
    truth["eos_doy"] = 2 * truth["pos_doy"] - truth["sos_doy"]  # limbs of equal rates: the peak lies half-way
    return truth


def _visits(plots, truth, config: SyntheticConfig, rng: np.random.Generator):
    """Visit days are a transect's, NDVI the plots': (n, visits) → a long table."""
    import pandas as pd

    n, m = len(truth), config.visits
    transect = truth.merge(plots, on="plot", how="left")
    trip = transect.groupby(["season", "transect"], sort=False).ngroup().to_numpy()
    planned = 95 + (np.arange(m) + 0.5) * 190 / m
    trips = planned + rng.uniform(-0.4, 0.4, (trip.max() + 1, m)) * 190 / m
    t = np.sort(np.round(trips), axis=1)[trip]
    rate = rng.uniform(0.08, 0.12, n)
    sos, eos = truth["sos_doy"].to_numpy(), truth["eos_doy"].to_numpy()
    height = 2 / (1 + np.exp(-rate * (eos - sos) / 2)) - 1  # of the bump at the peak, a little below 1
    amplitude = (truth["peak_ndvi"].to_numpy() - 0.3) / height
    p = np.stack([np.full(n, 0.3), amplitude, sos, rate, eos, rate], axis=1)
    y = evaluate_many(curve("beck"), p, t) + rng.normal(0, config.noise, (n, m))
    y -= (rng.random((n, m)) < 0.01) * rng.uniform(0.1, 0.3, (n, m))
    first = pd.to_datetime(truth["season"].astype(str) + "-01-01")
    date = first.to_numpy()[:, None] + (t - 1).astype("timedelta64[D]")
    table = transect.loc[np.repeat(np.arange(n), m), ["plot", "site", "transect"]].reset_index(drop=True)
    return table.assign(date=date.ravel(), ndvi=y.ravel().round(4)).sort_values(["plot", "date"], ignore_index=True)

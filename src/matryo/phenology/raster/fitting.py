"""Fitting every pixel of a stack through `xarray.apply_ufunc`: time in one chunk, space in as many as there are."""

from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.phenology.fit import FLAGS, FitConfig, fit_curves
from matryo.phenology.season import measure

if TYPE_CHECKING:
    import xarray as xr

CHOSEN = ("sos_doy", "pos_doy", "eos_doy", "los_days", "peak_ndvi", "amplitude_ndvi", "integral_ndvi_days")
LAYERS = (*(name for each in CHOSEN for name in (each, f"{each}_se")), "rmse_ndvi", "visits", "flags")
"""Variables of the result: each metric with its standard error, the fit's RMSE, its visits, and its flags as bits."""

LEAST_VISITS = 2
"""Seasons with fewer dates than this in the stack are not fitted: an edge of the record."""


def fit_raster(
    stack: "xr.DataArray",
    config: FitConfig | None = None,
    definition: str = "der",
    weights: "xr.DataArray | None" = None,
    window: tuple[float, float] = (1.0, 366.0),
) -> "xr.Dataset":
    """Fit every pixel and season of a stack of NDVI.

    A stack of dask arrays gives a lazy result: nothing is computed here, and one block's memory is needed at a time for
    each thread or worker. Time is put in one chunk; the chunks of space stay as they are.

    Args:
        stack: NDVI with a dimension time; the others are kept.
        config: Curve, robust loss, bounds. With dask, blocks are the unit of parallel work and each uses one thread.
        definition: Of start and end of season.
        weights: As `stack`, or None for equal ones; 0 leaves a visit out.
        window: First and last day of a season, counted from 1 January of the year it is named after.

    Returns:
        A variable for each of `LAYERS`, with the dimension season in front of the stack's own.

    Raises:
        ValueError: There is no dimension time, its coordinate holds no dates, or no season has two dates.
    """
    import xarray as xr

    if "time" not in stack.dims:
        raise ValueError(f"the stack has dimensions {stack.dims}; expected one called time")
    if "time" not in stack.coords or not np.issubdtype(stack["time"].dtype, np.datetime64):
        raise ValueError("the stack's time coordinate holds no dates; expected one date for each layer")
    config = config or FitConfig()
    lazy = stack.chunks is not None
    stack = stack.sortby("time")
    weights = None if weights is None else weights.sortby("time")
    days = stack["time"].to_numpy().astype("datetime64[D]")
    shifted = days - np.timedelta64(int(window[0]) - 1, "D")
    year = shifted.astype("datetime64[Y]").astype(int) + 1970
    seasons = [int(one) for one in np.unique(year) if (year == one).sum() >= LEAST_VISITS]
    if not seasons:
        raise ValueError(f"no season has {LEAST_VISITS} dates or more; the stack has {len(days)} in all")
    settings = {"config": config, "definition": definition, "window": window, "threads": 1 if lazy else config.threads}
    parts = []
    for one in seasons:
        here = year == one
        t = (days[here] - np.datetime64(f"{one}-01-01", "D")).astype(int) + 1.0
        arrays = [array.isel(time=here) for array in (stack, weights) if array is not None]
        parts.append(_apply(arrays, {"t": t, **settings}))
    joined = xr.concat(parts, dim=xr.IndexVariable("season", seasons))
    found = joined.assign_coords(layer=list(LAYERS)).to_dataset("layer")
    found.attrs |= {"curve": config.curve, "robust": config.robust, "definition": definition}
    return _described(found, stack)


def _described(found: "xr.Dataset", stack: "xr.DataArray") -> "xr.Dataset":
    """Types and units of the layers, and what the stack's coordinates say of themselves."""
    for name in ("visits", "flags"):
        found[name] = found[name].astype("int16")
    for name in LAYERS[:-2]:
        found[name].attrs["units"] = "days" if name.removesuffix("_se").endswith(("doy", "days")) else "1"
    found["integral_ndvi_days"].attrs["units"] = "NDVI days"
    for name in found.coords.keys() & stack.coords.keys():  # apply_ufunc forgets those of x, y and the CRS
        found[name].attrs |= stack[name].attrs
    return found


def tally(found: "xr.Dataset") -> tuple[int, dict[str, int]]:
    """How many pixels and seasons of a result have a start, and how many each flag that any has; block by block."""
    flags = found["flags"].astype("int16")
    counts = {name: int(((flags & bit) > 0).sum()) for name, (bit, _) in FLAGS.items()}
    return int(found["sos_doy"].notnull().sum()), {name: count for name, count in counts.items() if count}


def _apply(arrays: "list[xr.DataArray]", settings: dict[str, Any]) -> "xr.DataArray":
    """`fit_block` over the dimension time of one season's NDVI, and weights if there are any."""
    import xarray as xr

    return xr.apply_ufunc(
        fit_block,
        *(array.chunk(time=-1) if array.chunks is not None else array for array in arrays),
        input_core_dims=[["time"]] * len(arrays),
        output_core_dims=[["layer"]],
        kwargs=settings,
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"layer": len(LAYERS)}},
        keep_attrs=False,
    )


def fit_block(y: np.ndarray, *w: np.ndarray, t: np.ndarray, **settings: Any) -> np.ndarray:
    """Fit a block: y (…, time) and perhaps weights as large, t (time,) → (…, layers)."""
    config, form_window = settings["config"], settings["window"]
    flat = y.reshape(-1, y.shape[-1])
    weights = w[0].reshape(flat.shape) if w else None
    if weights is not None:
        weights = np.where(np.isfinite(weights), np.maximum(weights, 0), 0.0)
    inside = np.where(np.abs(flat) <= 1, flat, np.nan)
    one = FitConfig(
        **{**{name: getattr(config, name) for name in config.__dataclass_fields__}, "threads": settings["threads"]}
    )
    fits = fit_curves(t, inside, weights, one, form_window)
    found = measure(fits.curve, fits.parameters, fits.covariance, form_window, settings["threads"])
    used = np.isfinite(inside) if weights is None else np.isfinite(inside) & (weights > 0)
    total = used.sum(axis=1) if weights is None else np.where(used, weights, 0).sum(axis=1)
    out = np.empty((len(flat), len(LAYERS)))
    names = {f"{event}_{unit}": f"{event}_{settings['definition']}_{unit}" for event, unit in
             (("sos", "doy"), ("eos", "doy"), ("los", "days"))}  # fmt: skip
    for k, name in enumerate(CHOSEN):
        source = names.get(name, name)
        out[:, 2 * k], out[:, 2 * k + 1] = found[source], found.error(source)
    out[:, -3] = np.sqrt(fits.cost / np.where(total > 0, total, np.nan))
    out[:, -2], out[:, -1] = used.sum(axis=1), fits.flags
    return out.reshape(*y.shape[:-1], len(LAYERS))

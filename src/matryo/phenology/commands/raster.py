"""`matryo phenology raster`: a stack of NDVI → a stack of dates."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from matryo.phenology.commands.options import RasterOptions, part
from matryo.spine.config import to_dict
from matryo.spine.progress import say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    import xarray as xr


def raster(
    data: str = "synthetic",
    *,
    recipe: str = "satellite",
    options: Annotated[RasterOptions | None, Parameter(name="*")] = None,
    format: Literal["zarr", "netcdf"] = "zarr",
    cluster: str | None = None,
    runs: Path = Path("runs"),
) -> None:
    """Fit every pixel and season of an NDVI stack: dates, sizes and their standard errors as layers.

    Blocks of pixels are read, fitted and written one by one, on threads of this machine or on a dask cluster.

    Examples
    --------
        matryo phenology raster --height 40 --width 60 --chunk 20
        matryo phenology raster synthetic --height 20 --width 30 --curve beck --robust none
        matryo phenology raster ndvi.zarr --variable NDVI --cluster tcp://host:8786  # downloads nothing, needs the stack

    Parameters
    ----------
    data
        A .nc file, a .zarr folder, a .tif with a band for each date, a folder of dated .tif files, or synthetic.
    recipe
        Named config, see `matryo phenology recipes`.
    format
        zarr (written block by block) or netcdf.
    cluster
        Address of a dask.distributed scheduler whose workers have matryo; threads of this machine without it.
    runs
        Folder of the runs.
    """
    path = raster_run(data, options or RasterOptions(), runs, recipe, format, cluster)
    say(f"seasons: {path}", seasons=str(path))


def raster_run(data: str, options: RasterOptions, runs: Path, name: str, kind: str, cluster: str | None) -> Path:
    """Fit a stack into a new run folder, and return where the layers are."""
    from matryo.phenology.fit import FitConfig
    from matryo.phenology.raster import fit_raster, open_raster, synthetic_raster, tally

    if data == "synthetic":
        stack = synthetic_raster(options.height, options.width, options.chunk, options.seed)
    else:
        stack = open_raster(Path(data), options.variable, options.chunk, options.dates) * options.ndvi_scale
    found = fit_raster(stack, part(options, FitConfig), options.definition, window=options.window)
    config = {"data": data, "recipe": name, "format": kind, **to_dict(options)}
    with RunFolder.create(runs, f"raster-{name}", "phenology raster", config) as run, _scheduler(cluster):
        where = "seasons.zarr" if kind == "zarr" else "seasons.nc"
        write(found, run.path / where)
        dated, flags = tally(written(run.path / where))
        sizes = {str(dim): int(size) for dim, size in found.sizes.items()}
        run.finish({"seasons": where, "sizes": sizes, "layers": [str(v) for v in found.data_vars]})
    seasons = " × ".join(f"{size:,} {dim}" for dim, size in sizes.items())
    said = ", ".join(f"{count:,} {name}" for name, count in flags.items()) or "none"
    say(f"fitted {seasons}: {dated:,} with a start of season; flags: {said}", **sizes, dated=dated, flags=flags)
    if not dated:
        why = "NDVI outside [-1, 1] is left out, so give --ndvi-scale 0.0001 if it is stored as integers"
        say(f"note: no pixel has a date; {why}", dated=0)
    return run.path / where


def write(found: "xr.Dataset", path: Path) -> None:
    """Write the layers; Zarr takes every block as it is done.

    How the input was stored is forgotten first, since compressors of one Zarr format are none of another. Every layer names
    the coordinate that holds the CRS, without which no GIS finds it.
    """
    crs = [str(name) for name, one in found.coords.items() if {"crs_wkt", "grid_mapping_name"} & set(one.attrs)]
    found = found.drop_encoding()
    for layer in found.data_vars.values():
        if crs:
            layer.encoding["grid_mapping"] = crs[0]
    if path.suffix == ".zarr":
        found.to_zarr(path, mode="w", zarr_format=2, consolidated=True)
    else:
        import_module("h5py")  # h5netcdf writes through it

        found.to_netcdf(path, engine="h5netcdf")


def written(path: Path) -> "xr.Dataset":
    """The layers as they were written, lazily."""
    import xarray as xr

    return xr.open_dataset(path, engine="zarr" if path.is_dir() else "h5netcdf", chunks={})


@contextmanager
def _scheduler(cluster: str | None) -> Iterator[Any]:
    """Threads of this process, or the cluster at an address."""
    if cluster is None:
        from dask import config

        with config.set(scheduler="threads"):
            yield None
        return
    from distributed import Client

    try:
        client = Client(cluster, timeout="20s")
    except (OSError, ValueError, TimeoutError) as error:
        raise OSError(
            f"no dask scheduler answers at {cluster} ({error}); expected an address such as tcp://host:8786"
        ) from error
    with client:
        yield client

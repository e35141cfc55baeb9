"""Opening stacks: NetCDF, Zarr, GeoTIFF (one file of many bands, or a folder of dated files), lazily."""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.spine.errors import unknown
from matryo.spine.seeding import numpy_generator

if TYPE_CHECKING:
    import xarray as xr

TIFF = (".tif", ".tiff")
NETCDF = (".nc", ".nc4", ".h5", ".zarr")


def open_raster(path: Path, variable: str | None, chunk: int, dates: Path | None = None) -> "xr.DataArray":
    """Open a stack without reading its values; space comes in chunks of `chunk` × `chunk` pixels, time in one.

    Args:
        path: A .nc file, a .zarr folder, a .tif file with a band for each date, or a folder of .tif files whose names
            hold their date as 20140531, 2014-05-31 or 2014151.
        variable: Which variable, where there are several.
        chunk: Pixels on a side of a chunk.
        dates: A text file with a date on each line, one for each band of a .tif.

    Raises:
        OSError: There is no such file.
        ValueError: It cannot be read, or has no dates.
    """
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    if path.suffix.lower() in TIFF or (path.is_dir() and path.suffix.lower() != ".zarr"):
        stack = _open_tiff(path, dates)
    elif path.suffix.lower() in NETCDF:
        stack = _open_dataset(path, variable)
    else:
        raise ValueError(
            f"{path} has no known ending; expected one of {', '.join((*NETCDF, *TIFF))}, or a folder of .tif"
        )
    space = {dim: chunk for dim in stack.dims if dim != "time"}
    return stack.chunk({"time": -1, **space}) if "time" in stack.dims else stack.chunk(space)


def _open_dataset(path: Path, variable: str | None) -> "xr.DataArray":
    import xarray as xr

    engine: Any = "zarr" if path.is_dir() else "h5netcdf"
    if engine == "h5netcdf":
        import_module("h5py")  # xarray would not say in one line that it is missing
    try:
        # False works for every Zarr store; None would warn at most.
        more: dict[str, Any] = {"consolidated": False} if engine == "zarr" else {}
        found = xr.open_dataset(path, engine=engine, chunks={}, decode_coords="all", **more)
    except (OSError, ValueError, KeyError) as error:
        said = f"{path} cannot be read as {'Zarr' if path.is_dir() else 'NetCDF-4'}: {error}"
        raise ValueError(f"{said}; expected .nc (NetCDF-4), .zarr, .tif or a folder of .tif") from error
    with_time = [str(name) for name, one in found.data_vars.items() if "time" in one.dims]
    if variable is None:
        if not with_time:
            said = ", ".join(f"{name} {one.dims}" for name, one in found.data_vars.items()) or "nothing"
            raise ValueError(f"{path} has no variable with a dimension called time, but {said}; rename the dimension")
        if len(with_time) > 1:
            raise ValueError(f"{path} has {with_time} over time; choose one with --variable")
        variable = with_time[0]
    if variable not in found:
        raise unknown("variable", variable, map(str, found.data_vars))
    return found[variable]


def _open_tiff(path: Path, dates: Path | None) -> "xr.DataArray":
    import rioxarray
    import xarray as xr

    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in TIFF)
    if not files:
        raise ValueError(f"{path} holds no .tif file; expected a folder of dated .tif files, or a .zarr folder")
    layers: list[Any] = [rioxarray.open_rasterio(file, chunks={}, masked=True) for file in files]
    if len(files) == 1:
        stack: Any = layers[0]
        names = stack.attrs.get("long_name", ())
        found = (
            read_dates(dates.read_text(encoding="utf-8").split())
            if dates
            else read_dates([names] if isinstance(names, str) else names)
        )
        if len(found) != stack.sizes["band"]:
            said = f"{path} has {stack.sizes['band']} bands and {len(found)} dates"
            raise ValueError(f"{said}; expected a date for each band: give a text file of them with --dates")
        return stack.rename(band="time").assign_coords(time=found)
    found = read_dates([file.stem for file in files])
    if len(found) != len(files):
        raise ValueError(
            f"{len(files) - len(found)} file names of {path} hold no date; expected 20140531, 2014-05-31 or 2014151"
        )
    flat: list[xr.DataArray] = [layer.isel(band=0, drop=True) for layer in layers]
    for file, layer in zip(files, flat, strict=True):
        if not (layer["x"].equals(flat[0]["x"]) and layer["y"].equals(flat[0]["y"])):
            said = f"{file} is not on the grid of {files[0].name}: {layer.shape} pixels beside {flat[0].shape}"
            raise ValueError(f"{said}, or of another extent; expected one grid, warp them to it")
    return xr.concat(flat, dim=xr.IndexVariable("time", found), join="exact", coords="minimal", compat="override")


def read_dates(texts: Sequence[str]) -> np.ndarray:
    """The dates in texts, as 2014-05-31, 20140531 or 2014151 (year and day); texts without one are passed over."""
    found = []
    for text in texts:
        if match := re.search(r"(\d{4})[-_]?(\d{2})[-_]?(\d{2})(?!\d)", text):
            found.append(np.datetime64("-".join(match.groups())))
        elif match := re.search(r"(?<!\d)(\d{4})(\d{3})(?!\d)", text):
            found.append(np.datetime64(f"{match[1]}-01-01") + np.timedelta64(int(match[2]) - 1, "D"))
    return np.array(found, dtype="datetime64[ns]")


def synthetic_raster(height: int, width: int, chunk: int, seed: int = 0, years: int = 1) -> "xr.DataArray":
    """A stack of Beck seasons whose start comes later from west to east and from one year to the next, 8-daily.

    Blocks are made when they are asked for, each from its own place and the seed.
    """
    import dask.array as da
    import xarray as xr

    time = np.concatenate(
        [np.arange(f"{2014 + j}-01-01", f"{2015 + j}-01-01", 8, dtype="datetime64[D]") for j in range(years)]
    )
    january = time.astype("datetime64[Y]").astype("datetime64[D]")
    t = (time - january).astype(int) + 1.0
    year = time.astype("datetime64[Y]").astype(int) + 1970 - 2014

    def block(block_info: Any = None) -> np.ndarray:
        (_, _), (y0, y1), (x0, x1) = block_info[None]["array-location"]
        rng = numpy_generator(seed, "raster", y0, x0)
        sos = 120 + 40 * np.arange(x0, x1) / width + rng.normal(0, 2, (y1 - y0, x1 - x0))
        rate = rng.uniform(0.06, 0.12, sos.shape)
        at = t[:, None, None] - 2 * year[:, None, None]
        bump = 1 / (1 + np.exp(-rate * (at - sos))) + 1 / (1 + np.exp(rate * (at - sos - 110))) - 1
        return 0.2 + 0.5 * bump + rng.normal(0, 0.02, bump.shape)

    size = ((len(time),), _pieces(height, chunk), _pieces(width, chunk))
    cube = da.map_blocks(block, chunks=size, dtype=np.float64, meta=np.empty((0, 0, 0)))
    return xr.DataArray(cube, dims=("time", "y", "x"), coords={"time": time.astype("datetime64[ns]")}, name="ndvi")


def _pieces(length: int, chunk: int) -> tuple[int, ...]:
    return tuple(min(chunk, length - start) for start in range(0, length, chunk))

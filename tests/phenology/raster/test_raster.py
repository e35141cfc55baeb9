"""Rasters: every pixel is what it is as a series, lazily and block by block, in every format and on a dying cluster."""

import os
import signal
import threading
import time

import dask
import numpy as np
import pytest
import xarray as xr

from matryo.phenology.commands.raster import write, written
from matryo.phenology.curves import blocks
from matryo.phenology.fit import FLAGS, FitConfig, fit_curves
from matryo.phenology.raster import LAYERS, fit_raster, fitting, open_raster, synthetic_raster, tally
from matryo.phenology.season import measure

CONFIG = FitConfig(robust="huber", threads=2)


@pytest.fixture(scope="module")
def stack():
    made = synthetic_raster(14, 19, 8, seed=3, years=2).compute()
    made[::5, 3, 4] = np.nan
    made[:, 6, 7] = np.nan
    return made


@pytest.fixture(scope="module")
def eager(stack):
    return fit_raster(stack, CONFIG, "trs50")


def test_a_pixel_is_what_it_is_as_a_series(stack, eager):
    assert set(eager.data_vars) == set(LAYERS)
    assert dict(eager.sizes) == {"season": 2, "y": 14, "x": 19}
    for season, y, x in ((2014, 0, 0), (2015, 13, 18), (2014, 3, 4), (2015, 7, 2)):
        here = stack["time"].dt.year == season
        one = stack.isel(y=y, x=x)[here]
        t = one["time"].dt.dayofyear.to_numpy().astype(float)
        fits = fit_curves(t, one.to_numpy()[None], None, CONFIG)
        dates = measure(fits.curve, fits.parameters, fits.covariance, (1.0, 366.0))
        found = eager.sel(season=season).isel(y=y, x=x)
        assert float(found["sos_doy"]) == dates["sos_trs50_doy"][0]
        assert float(found["eos_doy_se"]) == dates.error("eos_trs50_doy")[0]
        assert float(found["peak_ndvi"]) == dates["peak_ndvi"][0]
        assert int(found["flags"]) == fits.flags[0]
        assert int(found["visits"]) == np.isfinite(one.to_numpy()).sum()


def test_an_empty_pixel_is_flagged_and_nothing_else_is_lost(eager):
    assert (eager["flags"][:, 6, 7] == 1).all()
    assert np.isnan(eager["sos_doy"][:, 6, 7]).all()
    assert int(np.isnan(eager["sos_doy"]).sum()) == 2


def test_lazy_is_eager_and_sees_one_block_at_a_time(stack, eager, monkeypatch):
    shapes = []
    plain = fitting.fit_block

    def watched(y, *w, **settings):
        shapes.append(y.shape)
        return plain(y, *w, **settings)

    monkeypatch.setattr(fitting, "fit_block", watched)
    cut = stack.chunk({"time": 17, "y": 5, "x": 8})
    lazy = fit_raster(cut, CONFIG, "trs50")
    assert lazy["sos_doy"].chunks == ((1, 1), (5, 5, 4), (8, 8, 3))
    assert not [shape for shape in shapes if np.prod(shape) > 4]  # nothing but dask's own probe of the output's shape
    with dask.config.set(scheduler="threads", num_workers=3):
        xr.testing.assert_identical(lazy.compute(), eager)
    assert max(np.prod(shape[:2]) for shape in shapes) <= 5 * 8
    assert {shape[2] for shape in shapes if np.prod(shape) > 4} == {46}  # time in one chunk


def test_weights_and_order_of_time(stack, eager):
    shuffled = stack.isel(time=np.random.default_rng(0).permutation(stack.sizes["time"]))
    xr.testing.assert_identical(fit_raster(shuffled, CONFIG, "trs50"), eager)
    spoilt = stack.copy()
    spoilt[7] = -0.4
    weights = xr.ones_like(stack)
    weights[7] = 0
    without = fit_raster(stack.isel(time=[k for k in range(stack.sizes["time"]) if k != 7]), CONFIG)
    xr.testing.assert_allclose(fit_raster(spoilt, CONFIG, weights=weights), without)


@pytest.mark.filterwarnings("ignore:Use `@` matmul instead:PendingDeprecationWarning")  # rasterio's own
@pytest.mark.parametrize("kind", ["zarr", "nc", "tif", "folder"])
def test_every_format_gives_the_same_layers(stack, eager, tmp_path, kind):
    path, dates = tmp_path / f"stack.{kind}", None
    if kind == "zarr":
        stack.to_zarr(path, zarr_format=3, consolidated=False)
    elif kind == "nc":
        pytest.importorskip("h5py", reason="NetCDF needs h5py")
        stack.to_netcdf(path, engine="h5netcdf")
    else:
        import rioxarray  # noqa: F401

        days = np.datetime_as_string(stack["time"].to_numpy(), unit="D")
        placed = stack.drop_vars("time").rio.write_crs("EPSG:32627")
        placed = placed.assign_coords(x=500000.0 + 30 * np.arange(19), y=7000000.0 - 30 * np.arange(14))
        if kind == "tif":
            placed.rio.to_raster(path)
            dates = tmp_path / "dates.txt"
            dates.write_text("\n".join(days))
        else:
            path = tmp_path / "many"
            path.mkdir()
            for day, layer in zip(days, placed, strict=True):
                layer.rio.to_raster(path / f"NDVI_{day.replace('-', '')}_v1.tif")
    found = fit_raster(open_raster(path, None, 6, dates), CONFIG, "trs50").compute(scheduler="threads")
    for name in LAYERS:
        np.testing.assert_array_equal(found[name].to_numpy(), eager[name].to_numpy())


@pytest.mark.parametrize("kind", ["zarr", "nc"])
@pytest.mark.parametrize("given", ["zarr2", "zarr3", "nc"])
def test_what_is_written_knows_its_place_however_the_input_was_stored(stack, tmp_path, given, kind):
    """Compressors of the input's format are forgotten, its CRS is not: each layer names the coordinate holding it."""
    pytest.importorskip("h5py", reason="NetCDF needs h5py")
    import rioxarray  # noqa: F401

    placed = stack.isel(y=slice(4), x=slice(5)).rio.write_crs("EPSG:32627").to_dataset(name="ndvi")
    path = tmp_path / ("in.nc" if given == "nc" else "in.zarr")
    if given == "nc":
        placed.to_netcdf(path, engine="h5netcdf")
    else:
        placed.to_zarr(path, zarr_format=int(given[-1]), consolidated=False)
    out = tmp_path / f"out.{kind}"
    write(fit_raster(open_raster(path, None, 3), CONFIG), out)
    found = written(out)
    assert found["sos_doy"].attrs["grid_mapping"] == "spatial_ref"
    assert found.set_coords("spatial_ref").rio.crs.to_epsg() == 32627
    np.testing.assert_array_equal(found["sos_doy"], fit_raster(stack.isel(y=slice(4), x=slice(5)), CONFIG)["sos_doy"])


def test_a_result_is_counted_so_that_an_empty_one_is_seen(stack, eager):
    dated, flags = tally(eager)
    assert dated == 2 * 14 * 19 - 2
    assert flags == {
        name: int((eager["flags"].to_numpy() // bit % 2).sum())
        for name, (bit, _) in FLAGS.items()
        if (eager["flags"].to_numpy() // bit % 2).any()
    }
    assert tally(fit_raster(stack.isel(y=slice(2)) * 10_000, CONFIG)) == (0, {"too_few_points": 2 * 2 * 19})


def test_a_worker_killed_in_the_middle_changes_nothing(stack, eager):
    """Two workers of a LocalCluster, one of them killed when results have begun to come: complete and equal."""
    distributed = pytest.importorskip("distributed")
    quiet = {"logging.distributed": "critical", "distributed.worker.daemon": False}
    with (
        dask.config.set(quiet),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        lazy = fit_raster(stack.chunk({"y": 3, "x": 3}), CONFIG, "trs50").persist()
        pids = client.run(os.getpid)
        killed = threading.Event()

        def kill():
            while sum(len(keys) for keys in client.has_what().values()) < 8:
                time.sleep(0.02)
            os.kill(next(iter(pids.values())), signal.SIGKILL)
            killed.set()

        thread = threading.Thread(target=kill)
        thread.start()
        thread.join(60)
        assert killed.is_set()
        found = lazy.compute()
    xr.testing.assert_identical(found, eager)


def test_what_is_no_stack_is_told(tmp_path, stack):
    with pytest.raises(ValueError, match="expected one called time"):
        fit_raster(stack.rename(time="t"))
    with pytest.raises(ValueError, match="holds no dates"):
        fit_raster(stack.assign_coords(time=np.arange(stack.sizes["time"])))
    with pytest.raises(ValueError, match="no season has 2 dates"):
        fit_raster(stack.isel(time=[0]))
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no known ending"):
        open_raster(tmp_path / "a.csv", None, 5)
    with pytest.raises(ValueError, match=r"holds no \.tif"):
        open_raster(tmp_path / "none", None, 5)
    stack.to_dataset(name="b").assign(a=stack).to_zarr(tmp_path / "two.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(ValueError, match="choose one with --variable"):
        open_raster(tmp_path / "two.zarr", None, 5)
    stack.rename(time="band").to_zarr(tmp_path / "band.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(ValueError, match=r"no variable with a dimension called time, but .*\('band', 'y', 'x'\)"):
        open_raster(tmp_path / "band.zarr", None, 5)
    with pytest.raises(ValueError, match="unknown variable 'c'"):
        open_raster(tmp_path / "two.zarr", "c", 5)


def test_blocks_cover_every_series_once():
    for n in (0, 1, blocks.BLOCK, 5 * blocks.BLOCK + 3):
        seen = np.zeros(n, dtype=int)

        def work(part, seen=seen):
            seen[part] += 1

        blocks.run_blocks(work, n, 3)
        assert (seen == 1).all()

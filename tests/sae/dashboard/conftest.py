import pytest
from tests.sae.dashboard.planted import make_meta_run, make_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("dashboard") / "runs")


@pytest.fixture(scope="session")
def meta_run(trained):
    """A planted meta-SAE beside the index."""
    return make_meta_run(trained.parent, trained)


@pytest.fixture(scope="session")
def indexed(trained, meta_run):
    from matryo.sae.commands.index import IndexOptions, index_runs

    return index_runs([trained], IndexOptions(), trained.parent)


@pytest.fixture(scope="session")
def index(indexed):
    from matryo.sae.dashboard.index.opened import open_index

    return open_index(indexed)


@pytest.fixture(scope="session")
def base(indexed):
    """The address of a server of the index."""
    from tests.sae.dashboard.browsing import start_server, stop

    url, process = start_server(indexed)
    yield url
    stop(process)


@pytest.fixture(scope="module")
def browser():
    from tests.sae.dashboard.browsing import launch, sync_playwright

    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture
def at(browser, base):
    """A page in the browser on which nothing may go wrong."""
    from tests.sae.dashboard.browsing import Watched

    watched = Watched(browser, base)
    yield watched
    watched.context.close()
    assert not watched.problems, watched.problems


@pytest.fixture(scope="session")
def stitched(tmp_path_factory):
    """An index of two SAEs and, beside it, what `stitch`, `family` and `meta` really make of them."""
    from tests.sae.dashboard.planted import FIT_LARGE, FIT_SMALL, fitted_saes

    from matryo import cli
    from matryo.sae.commands.index import IndexOptions, index_runs

    runs = tmp_path_factory.mktemp("stitched") / "runs"
    made = make_run(runs, "fitted", fitted_saes)
    small, large = (f"{made}/saes/{name}" for name in (FIT_SMALL, FIT_LARGE))
    for line in (
        ["family", f"{large}@4", large, "--threshold", "0.3", "--ce-tokens", "0"],
        ["stitch", small, large, "--threshold", "0.3", "--ce-tokens", "90"],
        ["meta", str(made), "--n-meta", "3", "--k", "2", "--steps", "40", "--no-baselines", "--label-tokens", "0"],
    ):
        assert cli.run(["--quiet", "sae", *line, "--runs", str(runs)]) == 0
    return index_runs([made], IndexOptions(), runs)

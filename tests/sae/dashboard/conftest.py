import pytest
from tests.sae.dashboard.planted import make_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("dashboard") / "runs")


@pytest.fixture(scope="session")
def indexed(trained):
    from matryo.sae.commands.index import IndexOptions, index_runs

    return index_runs([trained], IndexOptions(), trained.parent)


@pytest.fixture(scope="session")
def index(indexed):
    from matryo.sae.dashboard.index.opened import open_index

    return open_index(indexed)

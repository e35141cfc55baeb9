"""Wrong values of a configuration: one line each, with the value and what was expected."""

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

import matryo.sae.nn.config as checked
from matryo.sae.nn import SAEConfig
from matryo.spine.config import from_dict


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The module as users import it, without the type checks of the tests, which would speak first."""
    spec = importlib.util.spec_from_file_location("plain_config", checked.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "plain_config" not in sys.modules
    return module


WRONG = [
    ({"kind": "batchtopk"}, "unknown kind of SAE 'batchtopk': did you mean 'batch_topk'?"),
    ({"kind": "transformer"}, "unknown kind of SAE 'transformer': expected one of"),
    ({"d_in": 0}, "d_in is 0; expected a whole number of 1 or more"),
    ({"n_latents": -4, "k": 1}, "n_latents is -4; expected a whole number of 1 or more"),
    ({"k": 0}, "k is 0; expected a whole number of 1 or more"),
    ({"k": 2.5}, "k is 2.5; expected a whole number of 1 or more"),
    ({"k": 31}, "k is 31; expected at most n_latents = 30: lower k or raise n_latents"),
    ({"d_out": 0}, "d_out is 0; expected a whole number of 1 or more"),
    ({"aux_k": 0}, "aux_k is 0; expected a whole number of 1 or more"),
    ({"sampled_levels": 0}, "sampled_levels is 0; expected a whole number of 1 or more"),
    ({"bandwidth": 0.0}, "bandwidth is 0.0; expected a positive number, such as 0.5"),
    ({"bandwidth": float("nan")}, "bandwidth is nan; expected a positive number, such as 0.5"),
    ({"l1": -0.1}, "l1 is -0.1; expected a number of 0 or more"),
    ({"l1": float("nan")}, "l1 is nan; expected a number of 0 or more"),
    ({"l0_weight": -1.0}, "l0_weight is -1.0; expected a number of 0 or more"),
    ({"aux_weight": float("inf")}, "aux_weight is inf; expected a number of 0 or more"),
    ({"levels": "nestde"}, "unknown levels 'nestde': did you mean 'nested'?"),
    ({"levels": ()}, "levels is (); expected ascending prefix lengths whose last is n_latents = 30"),
    ({"levels": (5, 12)}, "levels is (5, 12); expected ascending prefix lengths whose last is n_latents = 30"),
    ({"levels": (12, 5, 30)}, "levels is (12, 5, 30); expected ascending prefix lengths whose last is n_latents = 30"),
    ({"levels": (5, 5, 30)}, "levels is (5, 5, 30); expected ascending prefix lengths whose last is n_latents = 30"),
    ({"levels": (0, 30)}, "levels is (0, 30); expected ascending prefix lengths whose last is n_latents = 30"),
    ({"level_weights": (1.0, 2.0)}, "level_weights has 2 numbers; expected 1, one per fixed level"),
    ({"levels": "nested", "level_weights": (1.0,)}, "level_weights has 1 numbers; expected 5, one per fixed level"),
    ({"levels": "sampled", "level_weights": (1.0,) * 5}, "level_weights has 5 numbers; expected none"),
    ({"levels": (5, 30), "level_weights": (1.0, -1.0)}, "level_weights is (1.0, -1.0); expected numbers of 0 or more"),
    ({"levels": (5, 30), "level_weights": (0.0, 0.0)}, "level_weights is (0.0, 0.0); expected numbers of 0 or more"),
    ({"levels": (5, 30), "level_weights": (1.0, float("nan"))}, "level_weights is (1.0, nan); expected numbers"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[str(wrong) for wrong, _ in WRONG])
def test_wrong_values(plain: ModuleType, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        plain.SAEConfig(**{"d_in": 7, "n_latents": 30, "k": 3} | wrong)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_fields_from_a_file() -> None:
    config = from_dict(SAEConfig, {"d_in": 7, "n_latents": 30, "k": 3, "levels": [5, 30], "level_weights": [1, 3]})
    assert config.levels == (5, 30) and config.level_weights == (1.0, 3.0)
    for wrong, message in (
        ({"n_latent": 30}, "unknown field 'n_latent': did you mean 'n_latents'"),
        ({"n_latents": "30"}, "n_latents"),
        ({}, "n_latents is missing"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            from_dict(SAEConfig, {"d_in": 7} | wrong)
        assert "\n" not in str(caught.value)


def test_the_module_imports_no_torch() -> None:
    heavy = "('torch', 'numpy', 'jaxtyping')"
    code = f"import sys, matryo.sae.nn.config; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_k_means_nothing_to_relu_and_gated() -> None:
    assert SAEConfig(kind="relu", d_in=7, n_latents=30).k == 32
    assert SAEConfig(kind="gated", d_in=7, n_latents=30).k == 32


def test_names() -> None:
    make = SAEConfig(d_in=7, n_latents=30, k=3)
    assert make.name == "batch_topk-30-k3-s0" and make.lengths == (30,) and not make.nested and not make.transcoder
    assert SAEConfig(d_in=7, n_latents=30, k=3, levels="sampled", seed=4).name == "batch_topk-30-k3-sampled-s4"
    assert (
        SAEConfig(kind="relu", d_in=7, n_latents=30, k=3, l1=0.5, levels=(4, 30)).name == "relu-30-l1_0.5-levels4_30-s0"
    )

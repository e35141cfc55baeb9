"""Every kind of ours through every format that can hold it, and those that a format cannot hold refused by name."""

import json

import pytest
import torch
from tests.sae.nn.cases import CASES, N_LATENTS, Case

from matryo.sae.interop import WRITERS, largest_difference, load_foreign, write_sae

METADATA = {"model_name": "gpt2", "hook_name": "blocks.1.hook_mlp_out", "context_size": 64}


def held(case, to):
    """Whether the format has a word for this kind."""
    if to == "dictionary_learning":
        return not case.transcoder
    return not (case.transcoder and (case.kind == "gated" or case == Case("topk", "none", True)))


PAIRS = [pytest.param(case, to, id=f"{case}-{to}") for case in CASES for to in WRITERS]


@pytest.mark.parametrize("case, to", PAIRS)
@torch.no_grad()
def test_there_and_back(case, to, tmp_path):
    sae, x = case.fitted(torch.float32), case.data(dtype=torch.float32)[0]
    if not held(case, to):
        with pytest.raises(ValueError, match="transcoder") as caught:
            write_sae(sae, to, tmp_path / "out", METADATA)
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
        return
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    notes = write_sae(sae, to, tmp_path / "out", METADATA)
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in sae.state_dict().items())
    found = load_foreign(tmp_path / "out")
    assert found.sae.config == sae.config and not found.sae.training
    assert found.metadata == METADATA | ({} if to == "dictionary_learning" else found.metadata)
    assert bool(notes) == (to == "dictionary_learning" and case.kind in ("relu", "jumprelu"))
    assert torch.allclose(found.sae.encode(x), sae.encode(x), atol=1e-6, rtol=1e-6)
    assert torch.allclose(found.sae(x), sae(x), atol=1e-6, rtol=1e-6)
    assert largest_difference(sae, found.sae) < 1e-6
    for level in sae.config.lengths[:-1]:
        assert torch.allclose(found.sae.prefix(level)(x), sae.prefix(level)(x), atol=1e-6, rtol=1e-6)


AS_THEY_DO = {
    # dict_class → (x, tensors) → z, written down from dictionary_learning 0.1.0
    "AutoEncoder": lambda x, t: torch.relu((x - t["bias"]) @ t["encoder.weight"].t() + t["encoder.bias"]),
    "AutoEncoderNew": lambda x, t: torch.relu(x @ t["encoder.weight"].t() + t["encoder.bias"]),
    "GatedAutoEncoder": lambda x, t: (
        ((x - t["decoder_bias"]) @ t["encoder.weight"].t() + t["gate_bias"] > 0)
        * torch.relu(t["r_mag"].exp() * ((x - t["decoder_bias"]) @ t["encoder.weight"].t()) + t["mag_bias"])
    ),
    "AutoEncoderTopK": lambda x, t: best((x - t["b_dec"]) @ t["encoder.weight"].t() + t["encoder.bias"], int(t["k"])),
    "BatchTopKSAE": lambda x, t: above((x - t["b_dec"]) @ t["encoder.weight"].t() + t["encoder.bias"], t["threshold"]),
    "MatryoshkaBatchTopKSAE": lambda x, t: above((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"], t["threshold"]),
    "JumpReluAutoEncoder": lambda x, t: above(x @ t["W_enc"] + t["b_enc"], t["threshold"]),
}


def above(pre, threshold):
    return torch.relu(pre) * (pre > threshold)


def best(pre, k):
    top = torch.topk(torch.relu(pre), k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values)


WRITTEN = {
    Case("relu"): "AutoEncoderNew",
    Case("relu", "nested"): "AutoEncoder",
    Case("gated", "nested"): "GatedAutoEncoder",
    Case("topk"): "AutoEncoderTopK",
    Case("topk", "nested"): "MatryoshkaBatchTopKSAE",
    Case("batch_topk"): "BatchTopKSAE",
    Case("batch_topk", "sampled"): "MatryoshkaBatchTopKSAE",
    Case("batch_topk", "tuple"): "MatryoshkaBatchTopKSAE",
    Case("jumprelu", "nested"): "JumpReluAutoEncoder",
}


@pytest.mark.parametrize("case", WRITTEN, ids=str)
@torch.no_grad()
def test_what_is_written_computes_the_same_by_their_formulas(case, tmp_path):
    sae, x = case.fitted(torch.float32), case.data(dtype=torch.float32)[0]
    if WRITTEN[case] == "AutoEncoder":
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    write_sae(sae, "dictionary_learning", tmp_path / "out", METADATA)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    trainer, tensors = config["trainer"], torch.load(tmp_path / "out" / "ae.pt", weights_only=True)
    assert trainer["dict_class"] == WRITTEN[case]
    assert (trainer["activation_dim"], trainer["dict_size"]) == (7, N_LATENTS)
    assert (trainer["lm_name"], trainer["layer"], trainer["submodule_name"]) == ("gpt2", 1, "mlp_out_layer_1")
    z = AS_THEY_DO[WRITTEN[case]](x, tensors)
    rows = tensors["W_dec"] if "W_dec" in tensors else tensors["decoder.weight"].t()
    b_dec = next(tensors[name] for name in ("b_dec", "bias", "decoder.bias", "decoder_bias") if name in tensors)
    assert torch.allclose(z @ rows + b_dec, sae(x), atol=1e-5, rtol=0)
    assert torch.allclose(z, sae.encode(x), atol=1e-5, rtol=0)
    if WRITTEN[case] == "AutoEncoderTopK":
        assert float(tensors["threshold"]) == -1, "the library's value for a threshold not set"
    if "group_sizes" in tensors:
        assert tuple(tensors["group_sizes"].cumsum(0).tolist()) == sae.config.lengths
        assert tensors["k"].dtype == torch.int32 and tensors["threshold"].dim() == 0


def test_a_prefix_goes_through_and_a_difference_is_seen(tmp_path):
    whole = Case("topk", "nested").fitted(torch.float32)
    sae = whole.prefix(9)
    for to in WRITERS:
        write_sae(sae, to, tmp_path / to)
        assert largest_difference(sae, load_foreign(tmp_path / to).sae) < 1e-6
        assert load_foreign(tmp_path / to).sae.config == sae.config
    assert largest_difference(sae, whole.prefix(9)) == 0
    assert largest_difference(sae, whole) > 0.01

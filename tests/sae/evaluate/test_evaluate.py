"""Every measured number has a brute-force twin here, computed the slow way from the model's own tensors."""

import math
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from matryo.sae.evaluate import collect_passages, measure_downstream, measure_reconstruction
from matryo.sae.evaluate.downstream import _levels, _ordinary
from matryo.sae.evaluate.reconstruction import DENSITY_EDGES
from matryo.sae.lm import LM, capture
from matryo.sae.nn import SAEConfig, build

SITE, ROWS, LENGTH, D, VOCAB = "blocks.1.resid_pre", 7, 11, 24, 37


@pytest.fixture(scope="module")
def lm() -> LM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=D,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.4,
        max_position_embeddings=32,
    )
    return LM.wrap(AutoModelForCausalLM.from_config(config).eval())


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    ids = torch.randint(3, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 1
    return ids


@pytest.fixture(scope="module")
def saes(lm, tokens):
    acts = capture(lm, tokens, [SITE])[SITE][:, 1:].flatten(0, 1)
    made = {}
    for name, levels in (("plain", "none"), ("nested", (5, 20, 50))):
        sae = build(SAEConfig(kind="batch_topk", d_in=D, n_latents=50, k=6, levels=levels))
        sae.initialise(acts)
        sae.calibrate([acts])
        made[name] = sae.eval()
    return made


def test_reconstruction_equals_brute_force_however_it_is_split(lm, tokens, saes):
    acts = capture(lm, tokens, [SITE])[SITE][:, 1:].flatten(0, 1)
    whole = measure_reconstruction(saes, [acts])
    pieces = measure_reconstruction(saes, acts.split(13))
    for name, sae in saes.items():
        z = sae.encode(acts).detach().double()
        assert whole[name].tokens == pieces[name].tokens == len(acts)
        assert whole[name].l0 == pytest.approx(float((z > 0).sum(1).double().mean()))
        assert whole[name].dead == pytest.approx(float((z.sum(0) == 0).double().mean()))
        spread = float((acts.double() - acts.double().mean(0)).square().sum())
        for level in sae.config.lengths:
            x_hat = z[:, :level] @ sae.W_dec[:level].detach().double() + sae.b_dec.detach().double()
            expected = float((acts.double() - x_hat).square().sum()) / spread
            assert whole[name].level_fvu[level] == pytest.approx(expected, rel=1e-5)
            assert pieces[name].level_fvu[level] == pytest.approx(expected, rel=1e-5)
            assert whole[name].level_l0[level] == pytest.approx(float((z[:, :level] > 0).sum(1).double().mean()))
        assert whole[name].fvu == whole[name].level_fvu[50]
        check_the_rest(whole[name], sae, acts.double(), z)
        check_the_rest(pieces[name], sae, acts.double(), z)


def check_the_rest(found, sae, x, z):
    W_dec, W_enc = sae.W_dec.detach().double(), sae.W_enc.detach().double()
    counts = (z > 0).sum(1)
    assert found.l1 == pytest.approx(float(z.sum(1).mean()), rel=1e-5)
    assert list(found.l0_counts) == [int((counts == n).sum()) for n in range(int(counts.max()) + 1)]
    ordered = sorted(counts.tolist())
    assert found.l0_quantiles == {f"{q} %": ordered[math.ceil(len(counts) * q / 100) - 1] for q in (5, 25, 50, 75, 95)}
    assert len(set(found.l0_quantiles.values())) > 2
    density = (z > 0).double().mean(0)
    bins = [
        sum(low <= math.log10(float(p)) < high or (high == 0 and float(p) == 1) for p in density if p > 0)
        for low, high in pairwise(DENSITY_EDGES)
    ]
    assert list(found.density_counts) == bins
    assert found.over_one_percent == float((density > 0.01).double().mean())
    assert found.over_ten_percent == float((density > 0.1).double().mean())
    assert found.firings_over_ten_percent == pytest.approx(float(density[density > 0.1].sum() / density.sum()))
    assert found.firings_over_one_percent == pytest.approx(float(density[density > 0.01].sum() / density.sum()))
    x_hat = z @ W_dec + sae.b_dec.detach().double()
    assert found.mse == pytest.approx(float((x - x_hat).square().mean()), rel=1e-5)
    assert found.norm == pytest.approx(float(x.norm(dim=1).mean()))
    assert found.norm_hat == pytest.approx(float(x_hat.norm(dim=1).mean()), rel=1e-5)
    assert found.norm_ratio == pytest.approx(float((x_hat.norm(dim=1) / x.norm(dim=1)).mean()), rel=1e-5)
    assert found.encoder_cosine == pytest.approx(nearest(W_enc.t()), rel=1e-5)
    for level, one in found.levels.items():
        x_hat = z[:, :level] @ W_dec[:level] + sae.b_dec.detach().double()
        assert one.dead == pytest.approx(float((z[:, :level].sum(0) == 0).double().mean()))
        assert one.cosine == pytest.approx(float(torch.cosine_similarity(x, x_hat).mean()), rel=1e-5)
        bias = float(x_hat.square().sum() / (x * x_hat).sum())
        assert one.relative_bias == pytest.approx(bias, rel=1e-5)
        assert one.decoder_cosine == pytest.approx(nearest(W_dec[:level]), rel=1e-5)


def nearest(rows):
    unit = rows / rows.norm(dim=1, keepdim=True)
    return sum(max(float(unit[i] @ unit[j]) for j in range(len(unit)) if j != i) for i in range(len(unit))) / len(unit)


def test_reconstruction_of_nothing_is_refused(saes):
    with pytest.raises(ValueError, match="0 held-out tokens"):
        measure_reconstruction(saes, [])


def loss_with(lm, tokens, edit):
    """Cross-entropy of predictions made from position 1 on, with the block's input edited by a plain hook."""
    logits = logits_with(lm, tokens, edit)
    total = [
        -float(torch.log_softmax(logits[row, at].double(), 0)[tokens[row, at + 1]])
        for row in range(len(tokens))
        for at in range(1, tokens.shape[1] - 1)
    ]
    return sum(total) / len(total), len(total)


def kl_with(lm, tokens, edit):
    """Σ p (log p − log q) at the same positions, p of the model as it is."""
    clean, edited = logits_with(lm, tokens, lambda x: x).double(), logits_with(lm, tokens, edit).double()
    total = []
    for row in range(len(tokens)):
        for at in range(1, tokens.shape[1] - 1):
            p, q = torch.softmax(clean[row, at], 0), torch.softmax(edited[row, at], 0)
            total.append(sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)))
    return sum(total) / len(total)


def logits_with(lm, tokens, edit):

    def before(_, args, kwargs):
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    handle = lm.model.model.layers[1].register_forward_pre_hook(before, with_kwargs=True)
    with torch.no_grad():
        logits = lm.model(tokens).logits
    handle.remove()
    return logits


def test_downstream_equals_brute_force_with_position_zero_and_sinks_unspliced(lm, tokens, saes):
    # One token of huge norm, planted through the embedding of one id, is a sink wherever it stands.
    sink = 5
    tokens = tokens.clone()
    tokens[tokens == sink] = 6
    tokens[2, 4] = tokens[5, 9] = sink
    weights = lm.model.model.embed_tokens.weight.data
    before = weights[sink].clone()
    weights[sink] *= 500
    try:
        acts = capture(lm, tokens, [SITE])[SITE]
        found = measure_downstream(lm, tokens, SITE, saes, levels=True)
        keep = torch.ones(ROWS, LENGTH, dtype=torch.bool)
        keep[:, 0] = keep[2, 4] = keep[5, 9] = False
        mean = acts[keep].mean(0)

        def only(new):
            return lambda x: torch.where(keep[..., None], new(x), x)

        expected, count = loss_with(lm, tokens, lambda x: x)
        assert found.tokens == count == ROWS * (LENGTH - 2)
        assert found.sinks == 2
        assert found.ce_clean == pytest.approx(expected, rel=1e-5)
        assert found.ce_zero == pytest.approx(loss_with(lm, tokens, only(torch.zeros_like))[0], rel=1e-5)
        assert found.ce_mean == pytest.approx(loss_with(lm, tokens, only(lambda x: mean.expand_as(x)))[0], rel=1e-5)
        for name, sae in saes.items():
            spliced = loss_with(lm, tokens, only(lambda x, sae=sae: sae(x).detach()))[0]
            assert found.ce_spliced[name] == pytest.approx(spliced, rel=1e-5)
            kl = kl_with(lm, tokens, only(lambda x, sae=sae: sae(x).detach()))
            assert found.kl_spliced[name] == pytest.approx(kl, rel=1e-4)
            assert found.kl_recovered[name] == pytest.approx(1 - kl / found.kl_zero, rel=1e-4)
            recovered = (found.ce_zero - spliced) / (found.ce_zero - found.ce_clean)
            assert found.recovered[name] == pytest.approx(recovered, rel=1e-4)
            x, x_hat = acts[keep].double(), sae(acts[keep]).detach().double()
            fvu = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
            assert found.fvu[name] == pytest.approx(fvu, rel=1e-4)
            x, x_hat = acts[:, 1:].flatten(0, 1).double(), sae(acts[:, 1:].flatten(0, 1)).detach().double()
            fvu = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
            assert found.fvu_with_sinks[name] == pytest.approx(fvu, rel=1e-4)
        assert found.kl_zero == pytest.approx(kl_with(lm, tokens, only(torch.zeros_like)), rel=1e-4)
        assert found.kl_mean == pytest.approx(kl_with(lm, tokens, only(lambda x: mean.expand_as(x))), rel=1e-4)
        assert set(found.level_ce) == {"nested"} and list(found.level_ce["nested"]) == [5, 20, 50]
        for level, ce in found.level_ce["nested"].items():
            sae = saes["nested"]

            def first(x, sae=sae, level=level):
                return (sae.encode(x)[..., :level] @ sae.W_dec[:level] + sae.b_dec).detach()

            assert ce == pytest.approx(loss_with(lm, tokens, only(first))[0], rel=1e-5)
            assert found.level_kl["nested"][level] == pytest.approx(kl_with(lm, tokens, only(first)), rel=1e-4)
        told = _levels(found).rows
        assert [row[:2] for row in told] == [("nested", level) for level in (5, 20, 50)]
        for _, level, ce, recovered, kl, kl_recovered in told:
            assert (ce, kl) == (found.level_ce["nested"][level], found.level_kl["nested"][level])
            assert recovered == pytest.approx((found.ce_zero - ce) / (found.ce_zero - found.ce_clean))
            assert kl_recovered == pytest.approx(1 - kl / found.kl_zero)
        assert told[-1][3] == pytest.approx(found.recovered["nested"])
    finally:
        weights[sink] = before


def test_sinks_are_told_from_the_median_of_what_follows_the_first_position():
    norms = torch.tensor([[1000.0, 2, 25], [1000, 2, 3]])
    assert _ordinary(norms[..., None]).tolist() == [[False, True, False], [False, True, True]]
    assert _ordinary(torch.tensor([[9.0, 1, 10, 1, 1]])[..., None]).tolist() == [[False, True, True, True, True]]


def test_a_given_mean_is_the_one_that_ablates(lm, tokens, saes):
    mean = torch.linspace(-1, 1, D)
    keep = torch.ones(ROWS, LENGTH, 1, dtype=torch.bool)
    keep[:, 0] = False
    expected, _ = loss_with(lm, tokens, lambda x: torch.where(keep, mean.expand_as(x), x))
    assert measure_downstream(lm, tokens, SITE, {}, mean).ce_mean == pytest.approx(expected, rel=1e-5)


def test_rows_too_short_to_predict_are_refused(lm, tokens):
    with pytest.raises(ValueError, match="2 positions; expected at least 3"):
        measure_downstream(lm, tokens[:, :2], SITE, {})


@pytest.mark.parametrize("chunk", [3, 1000])
def test_passages_are_the_strongest_of_each_row(lm, tokens, saes, chunk):
    sae, context, count = saes["plain"], 3, 4
    acts = capture(lm, tokens, [SITE])[SITE][:, 1:]
    flat = acts.flatten(0, 1)
    z = sae.encode(flat).detach().view(ROWS, LENGTH - 1, -1)
    asked = {}

    def choose(density, firings):
        asked["density"], asked["firings"] = density, firings
        return torch.argsort(firings, descending=True)[:5].tolist()

    def chunks():
        return ((start, flat[start : start + chunk]) for start in range(0, len(flat), chunk))

    found = collect_passages(sae, chunks, LENGTH, choose, count, context)
    assert torch.equal(asked["firings"], (z > 0).sum((0, 1)))
    assert len(found) == 5
    for latent in found:
        mine = z[..., latent.latent]
        assert latent.density == pytest.approx(float((mine > 0).double().mean()))
        assert latent.largest == pytest.approx(float(mine.max()))
        peaks = {row: int(mine[row].argmax()) + 1 for row in range(ROWS) if float(mine[row].max()) > 0}
        best = sorted(peaks, key=lambda row: -float(mine[row].max()))[:count]
        assert [p.row for p in latent.passages] == best
        for passage in latent.passages:
            assert passage.peak == peaks[passage.row]
            assert passage.first == max(0, passage.peak - context)
            padded = torch.cat([torch.zeros(1), mine[passage.row]])
            expected = padded[passage.first : passage.first + len(passage.values)]
            assert torch.allclose(torch.tensor(passage.values), expected)
            assert passage.first + len(passage.values) - 1 == min(LENGTH - 1, passage.peak + context)


def test_a_latent_that_never_fires_has_no_passages(lm, tokens, saes):
    flat = capture(lm, tokens, [SITE])[SITE][:, 1:].flatten(0, 1)
    sae = build(saes["plain"].config)
    sae.load_state_dict(saes["plain"].state_dict())
    with torch.no_grad():
        sae.b_enc[3] = -1e6
    (found,) = collect_passages(sae.eval(), lambda: [(0, flat)], LENGTH, lambda density, firings: [3])
    assert found.passages == () and found.largest == 0 and found.density == 0
    assert not math.isnan(found.density)

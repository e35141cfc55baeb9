"""Edits by meta-latents: as functions of activations, and what they do in a model, against brute force."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from matryo.sae.compare.meta import MetaConfig, MetaEdit, MetaSteering, decoder_directions, decompose, fit_meta
from matryo.sae.compare.steering import measure_edits
from matryo.sae.lm import LM, capture
from matryo.sae.nn import SAEConfig, build

SITE, ROWS, LENGTH, D, VOCAB, N = "blocks.1.resid_pre", 5, 11, 24, 37, 50


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.4,
        max_position_embeddings=32,
    )  # fmt: skip
    return LM.wrap(AutoModelForCausalLM.from_config(config).eval())


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(3, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 1
    return ids


@pytest.fixture(scope="module")
def acts(lm, tokens):
    return capture(lm, tokens, [SITE])[SITE]


@pytest.fixture(scope="module")
def sae(acts):
    sae = build(SAEConfig(kind="batch_topk", d_in=D, n_latents=N, k=6))
    sae.initialise(acts.flatten(0, 1))
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 3, N)[:, None]  # rows of any norm
    sae.calibrate([acts.flatten(0, 1)])
    return sae.eval()


@pytest.fixture(scope="module")
def meta(sae):
    return fit_meta(decoder_directions(sae), MetaConfig(n_meta=9, k=3, steps=40, batch=25))


@pytest.fixture(scope="module")
def latent(sae, meta, acts):
    """A latent that fires on some tokens and not on others, with several meta-latents."""
    parts = decompose(meta, decoder_directions(sae))
    active = sae.encode(acts[:, 1:]).detach().flatten(0, 1) > 0
    usable = [i for i in range(N) if 0 < int(active[:, i].sum()) < len(active) and int(parts.counts[i]) >= 2]
    return max(usable, key=lambda i: int(active[:, i].sum()))


def edited_row(sae, meta, edit):
    """The decoder row after an edit, from the definition."""
    row = sae.W_dec[edit.latent].detach()
    parts = {p.meta: p.activation for p in decompose(meta, decoder_directions(sae)).of_latent(edit.latent)}
    direction = torch.zeros(D) if edit.whole else row / row.norm()
    if not edit.whole:
        for m in edit.remove:
            direction = direction - parts.get(m, 0.0) * meta.W_dec[m].detach()
    for m, strength in edit.add:
        direction = direction + strength * meta.W_dec[m].detach()
    if edit.keep_norm and direction.norm() > 0:
        direction = direction / direction.norm()
    return row.norm() * direction


@pytest.mark.parametrize("case", ["remove", "several", "add", "both", "whole", "moved", "keep", "absent", "nothing"])
def test_an_edit_is_a_changed_decoder_row_with_the_error_term_kept(sae, meta, latent, acts, case):
    parts = decompose(meta, decoder_directions(sae)).of_latent(latent)
    own, other = [p.meta for p in parts], next(m for m in range(9) if m not in {p.meta for p in parts})
    edit = {
        "remove": MetaEdit(latent=latent, remove=(own[0],)),
        "several": MetaEdit(latent=latent, remove=tuple(own)),
        "add": MetaEdit(latent=latent, add=((other, 0.3),)),
        "both": MetaEdit(latent=latent, remove=(own[1],), add=((other, 0.3), (own[0], 0.1))),
        "whole": MetaEdit(latent=latent, whole=True),
        "moved": MetaEdit(latent=latent, whole=True, add=((other, 0.7),)),
        "keep": MetaEdit(latent=latent, remove=(own[0],), keep_norm=True),
        "absent": MetaEdit(latent=latent, remove=(other,)),
        "nothing": MetaEdit(latent=latent, whole=True, keep_norm=True),
    }[case]
    changed = build(sae.config)
    changed.load_state_dict(sae.state_dict())
    with torch.no_grad():
        changed.W_dec[latent] = edited_row(sae, meta, edit)
        expected = acts + (changed.eval()(acts) - sae(acts))
    assert torch.allclose(MetaSteering(sae, meta, [edit])(acts), expected, atol=1e-5)
    if case != "absent":
        assert not torch.allclose(acts, expected, atol=1e-3)


def test_several_latents_are_edited_at_once(sae, meta, latent, acts):
    other = (latent + 1) % N
    edits = [MetaEdit(latent=latent, whole=True), MetaEdit(latent=other, add=((2, 0.5),))]
    together = MetaSteering(sae, meta, edits)(acts)
    apart = sum(MetaSteering(sae, meta, [edit])(acts) - acts for edit in edits)
    assert torch.allclose(together, acts + apart, atol=1e-5)


def test_where_the_latent_is_silent_nothing_changes(sae, meta, latent, acts):
    steering = MetaSteering(sae, meta, [MetaEdit(latent=latent, whole=True)])
    silent = sae.encode(acts)[..., latent] == 0
    assert torch.equal(steering(acts)[silent], acts[silent])
    quiet = acts[silent][:3]
    assert steering(quiet) is quiet


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([], "expected one edit"),
        ([MetaEdit(latent=3), MetaEdit(latent=3)], r"latents \[3, 3\]"),
        ([MetaEdit(latent=N)], "latent is 50; expected 0 to 49"),
        ([MetaEdit(latent=3, remove=(9,))], "meta-latent is 9; expected 0 to 8"),
        ([MetaEdit(latent=3, add=((-1, 0.3),))], "meta-latent is -1"),
    ],
)
def test_wrong_edits_are_refused(sae, meta, edits, message):
    with pytest.raises(ValueError, match=message):
        MetaSteering(sae, meta, edits)


def test_effects_in_the_model_equal_a_plain_hook(lm, tokens, sae, meta, latent, acts, monkeypatch):
    monkeypatch.setattr("matryo.sae.compare.steering.PASS_TOKENS", 2 * LENGTH)
    edit = MetaEdit(latent=latent, whole=True)
    steering = MetaSteering(sae, meta, [edit])
    found = measure_edits(lm, tokens, SITE, sae, latent, {"whole": steering, "none": lambda x: x}, shown=4)
    active = sae.encode(acts).detach()[..., latent] > 0
    active[:, 0] = False

    def before(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        new = torch.where(active[..., None], steering(x), x)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    clean = torch.log_softmax(lm.logits(tokens).double(), -1)[active]
    handle = lm.model.model.layers[1].register_forward_pre_hook(before, with_kwargs=True)
    edited = torch.log_softmax(lm.logits(tokens).double(), -1)[active]
    handle.remove()
    change = (edited - clean).mean(0)
    assert found["whole"].tokens == int(active.sum())
    assert found["whole"].kl == pytest.approx(float((clean.exp() * (clean - edited)).sum(1).mean()), rel=1e-3)
    assert list(found["whole"].raised) == change.argsort(descending=True)[:4].tolist()
    assert list(found["whole"].lowered) == change.argsort()[:4].tolist()
    assert found["none"].kl == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="active on no token"):
        measure_edits(lm, tokens[:, :1], SITE, sae, latent, {"whole": steering})

"""Small labelled tasks and activations made by hand, in which the answers are known."""

import numpy as np
import torch

from matryo.sae.evaluate.tasks import CrossedTask, Task
from matryo.sae.evaluate.text_activations import PooledLatents, TextActivations
from matryo.sae.nn import SAEConfig, build

WIDTH = 11


def task(counts=(60, 50, 70), per_document=5, name="colours"):
    """Texts named by class and number; `per_document` of one class are a document."""
    texts, labels, groups = [], [], []
    for label, count in enumerate(counts):
        for at in range(count):
            texts.append(f"{name} class {label} text {at}")
            labels.append(label)
            groups.append(f"{label}/{at // per_document}")
    classes = ("red", "green", "blue", "grey", "pink")[: len(counts)]
    return Task(name, tuple(texts), np.array(labels), classes, tuple(groups))


def crossed(each=60, name="pair"):
    texts, labels = [], []
    for quadrant in range(4):
        for at in range(each):
            texts.append(f"{name} quadrant {quadrant} text {at}")
            labels.append((quadrant // 2, quadrant % 2))
    groups = tuple(f"{at // 3}" for at in range(len(texts)))
    return CrossedTask(name, tuple(texts), np.array(labels), (("low", "high"), ("dry", "wet")), groups)


def axes_sae(width=WIDTH):
    """A ReLU SAE whose latent j is the positive part of x_j, and decodes to it; latents width.. are negative parts.

    Decoder rows have different norms, so that whoever forgets them fails.
    """
    sae = build(SAEConfig(kind="relu", d_in=width, n_latents=2 * width))
    norms = torch.linspace(0.5, 2.0, 2 * width)
    eye = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        sae.W_dec.copy_(eye * norms[:, None])
        sae.W_enc.copy_((eye / norms[:, None]).T)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae.eval()


def activations(means, seed=0, spread=0.5):
    """Token activations of texts of 2 to 5 tokens about their means (texts, width), shortest text first."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 6, (len(means),), generator=generator)
    order = torch.argsort(lengths, stable=True)
    start = torch.cat([torch.zeros(1, dtype=torch.long), lengths[order].cumsum(0)])
    owner = torch.repeat_interleave(order, lengths[order])
    noise = spread * torch.randn(len(owner), means.shape[1], generator=generator)
    return TextActivations((means[owner] + noise).numpy(), start, order)


def dense(pooled: PooledLatents):
    return pooled.columns(torch.arange(pooled.n_latents))

"""The constants of the absorption measurement. Imports no torch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AbsorptionConfig:
    """Constants of SAEBench's code, version 0.6.0, except where a line says otherwise."""

    absorption_labels: tuple[str, ...] = ("first-letter", "wordnet")
    "Labels of single tokens, repeatable: first-letter, wordnet, or file:PATH (columns word, parent, child)."
    absorption_words: int = 0
    "Words drawn from each set of labels; 0 for all, as SAEBench."
    absorption_template: str = "{word} has the first letter:"
    "First letter: what each example of the prompt says of its word, before the answer."
    absorption_wordnet_template: str = "{word} is a kind of:"
    "Other labels: the same."
    absorption_examples: int = 10
    "Examples with their answers in every prompt."
    absorption_words_per_prompt: int = 256
    "Words that share the examples of their prompt; SAEBench draws examples for every word, 1."
    absorption_train_share: float = 0.8
    "Share of the words that probes are fitted on; the others are measured."
    absorption_probe_epochs: int = 50
    "Residual probe: passes over the words."
    absorption_probe_batch: int = 64
    "Residual probe: words per step."
    absorption_probe_decay: float = 1e-4
    "Residual probe: Adam's weight decay."
    absorption_sparse_epochs: int = 50
    "Probe on the latents: passes over the words."
    absorption_sparse_batch: int = 4096
    "Probe on the latents: words per step."
    absorption_sparse_l1: float = 0.01
    "Probe on the latents: weight of Σ|w|, averaged over the classes."
    absorption_max_split: int = 10
    "Most latents that a concept may be split over."
    absorption_f1_jump: float = 0.03
    "A further latent is one of the main latents while the F1 of their probe rises by more than this."
    absorption_full_cosine: float = 0.025
    "Full absorption: smallest cosine between the absorbing latent's decoder row and the probe."
    absorption_fraction_cosine: float = 0.1
    "Fraction: smallest cosine of an absorbing latent."
    absorption_share: float = 0.4
    "Both: smallest share of the token's projection on the probe that the absorbing latents bring."
    absorption_absorbers: int = 3
    "Fraction: most latents that absorb together."
    absorption_min_f1: float = 0.6
    "Classes whose residual probe has an F1 up to this are refused."
    absorption_min_classes: int = 20
    "First letter: means are given for at least this many classes (other labels: 2, ours)."
    absorption_min_words: int = 10
    "Classes with fewer words than this, or none to measure, are refused (ours)."
    absorption_seed: int = 42
    "Seed of splits, prompts and batches."

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("absorption_words",):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("examples", "words_per_prompt", "probe_epochs", "probe_batch", "sparse_epochs", "sparse_batch"):
            _check(f"absorption_{name}", value := getattr(self, f"absorption_{name}"), value >= 1, "1 or more")
        for name in ("max_split", "absorbers", "min_classes", "min_words"):
            _check(f"absorption_{name}", value := getattr(self, f"absorption_{name}"), value >= 1, "1 or more")
        for name in ("probe_decay", "sparse_l1"):
            value = getattr(self, f"absorption_{name}")
            _check(f"absorption_{name}", value, 0 <= value < math.inf, "a number of 0 or more")
        for name, low in (("full_cosine", -1), ("fraction_cosine", -1), ("share", 0), ("f1_jump", 0), ("min_f1", 0)):
            value = getattr(self, f"absorption_{name}")
            _check(f"absorption_{name}", value, low <= value <= 1, f"a number between {low} and 1")
        share = self.absorption_train_share
        _check("absorption_train_share", share, 0 < share < 1, "a number between 0 and 1")
        for name in ("absorption_template", "absorption_wordnet_template"):
            _check(name, template := getattr(self, name), template.count("{word}") == 1, "a text with one {word}")
        if not self.absorption_labels:
            raise ValueError("absorption_labels is empty; expected first-letter, wordnet or file:PATH")


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; expected {expected}")

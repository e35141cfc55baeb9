"""Where a labelled word's activation is read: at the word, after examples that say what is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matryo.sae.evaluate.absorption.words import Words
from matryo.sae.lm import LM, capture_endings
from matryo.spine.seeding import numpy_generator


@dataclass(frozen=True, eq=False)
class WordActivations:
    """Words with the site's activation at each of them, split in two."""

    words: Words
    x: Float[Tensor, "words d"]
    train: Bool[Tensor, "words"]
    "Words that probes are fitted on; the others are measured."


def read_activations(
    lm: LM,
    site: str,
    words: Words,
    template: str,
    *,
    examples: int = 10,
    share_prompt: int = 256,
    train_share: float = 0.8,
    limit: int = 0,
    seed: int = 42,
    advance: Callable[[int], None] = lambda tokens: None,
) -> WordActivations:
    r"""The site's activation at every word, at the end of a prompt with examples.

        BOS \n dog has the first letter: D \n … \n WORD

    Examples are drawn from the word's own side of the split. SAEBench reads the same place of longer prompts: what
    follows the word cannot change it. It draws the examples of each word anew; here `share_prompt` words share them.

    Args:
        lm: the model.
        site: where the SAEs belong.
        words: with their labels.
        template: of an example, up to its answer.
        examples: in every prompt.
        share_prompt: words read with the same examples.
        train_share: share of the words on the training side.
        limit: words drawn; 0 for all.
        seed: of the split and the examples.
        advance: told the number of words done.

    Raises:
        ValueError: fewer words with an answer, on one of the sides, than examples wanted and one.
    """
    random = numpy_generator(seed, "absorption", words.name)
    order = random.permutation(len(words.texts))[: limit or None]
    words = words.pick(torch.as_tensor(order))
    cut = int(len(order) * train_share)
    said = [_example(words, i, template) for i in range(len(order))]
    before = template.partition("{word}")[0]
    parts: list[Tensor] = []
    for low, high in ((0, cut), (cut, len(order))):
        pool = [i for i in range(low, high) if said[i] is not None]
        if len(pool) <= examples:
            raise ValueError(f"{words.name}: {len(pool)} words to draw {examples} examples from; expected more")
        shared = min(share_prompt, len(pool) - examples)  # a prompt's words are not among its examples
        for first in range(low, high, shared):
            group = range(first, min(first + shared, high))
            drawn = random.choice(pool, min(len(pool), examples + len(group)), replace=False).tolist()
            lines = [str(said[i]) for i in drawn if i not in group][:examples]
            prompt = [lm.bos_id, *lm.encode(["\n" + "\n".join(lines) + "\n" + before])[0]]
            ids = words.ids[group.start : group.stop, None]
            parts.append(capture_endings(lm, torch.tensor(prompt), ids, site)[:, -1].float().cpu())
            advance(len(group))
    return WordActivations(words, torch.cat(parts), torch.arange(len(order)) < cut)


def _example(words: Words, word: int, template: str) -> str | None:
    """A word with its answer; a letter is written large, as SAEBench does."""
    answer = words.answer(word)
    if answer is None:
        return None
    answer = answer.upper() if words.name == "first-letter" else answer
    return f"{template.format(word=words.texts[word])} {answer}"

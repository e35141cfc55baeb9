"""Named configs: field values for the commands, by name. A flag beats a `--config` file, which beats a recipe.

Values a command has no field for are passed over, as one recipe serves harvesting and training.
"""

from typing import Any

from matryo.spine.errors import unknown

_SMOLLM2 = {
    "lm": "smollm2",
    "site": ("blocks.10.resid_pre",),
    "text": ("pydocs",),
    "tokens": 150_000,
    # 75,000 tokens each, of some 500 modules: L0 on one follows from the other with a standard error of 0.8 % (log).
    "heldout_fraction": 0.25,
    "calibration_fraction": 0.25,
    "row_length": 256,
    "n_latents": (4608,),
    "k": (32,),
    "batch_size": 1024,
    "passes": 5.0,
    "lr": 1e-3,
    "dead_after": 100_000,
}
_TINY = _SMOLLM2 | {
    "lm": "tiny",
    "site": ("blocks.2.resid_pre",),
    "n_latents": (2048,),
}
_GPT2 = {
    "lm": "gpt2",
    "site": ("blocks.8.resid_pre",),
    "text": ("hf:Skylion007/openwebtext",),
    "tokens": 1_000_000_000,
    "heldout_fraction": 0.001,
    "calibration_fraction": 0.0001,
    "row_length": 128,
    "n_latents": (12_288,),
    "k": (32,),
    "batch_size": 4096,
    "passes": 1.0,
    "lr": 3e-4,
    "dead_after": 10_000_000,
}
_GEMMA = {
    "lm": "google/gemma-2-2b",
    "lm_dtype": "bfloat16",
    "site": ("blocks.12.resid_post",),
    "text": ("hf:monology/pile-uncopyrighted",),
    "tokens": 500_000_000,
    "heldout_fraction": 0.001,
    "calibration_fraction": 0.0001,
    "row_length": 1024,
    "n_latents": (65_536,),
    "k": (40,),
    "batch_size": 2048,
    "passes": 1.0,
    "lr": 3e-4,
    "dead_after": 10_000_000,
}

_META_SAEBENCH = {
    # SAEBench 0.6, meta_structure.
    "fraction": 0.25,
    "k": 4,
    "steps": 1500,
    "lr": 5e-4,
    "batch": 1024,
    "replacement": True,
    "aux_weight": 1 / 32,
}

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2": (
        "BatchTopK on SmolLM2-135M, layer 10, from installed Python documentation; what the demo trains.",
        _SMOLLM2 | {"kind": ("batch_topk",), "levels": ("none",)},
    ),
    "smollm2-matryoshka": (
        "The same with Matryoshka levels n/16, n/8, n/4, n/2, n.",
        _SMOLLM2 | {"kind": ("batch_topk",), "levels": ("nested",)},
    ),
    "smollm2-both": (
        "BatchTopK and Matryoshka side by side on the same batches; the demo.",
        _SMOLLM2 | {"kind": ("batch_topk",), "levels": ("none", "nested")},
    ),
    "family": (
        "Four sizes of BatchTopK on SmolLM2-135M, 768 to 6,144 latents, two seeds, in one pass; for matryo sae family.",
        _SMOLLM2
        | {"kind": ("batch_topk",), "levels": ("none",), "n_latents": (768, 1536, 3072, 6144), "sae_seed": (0, 1)},
    ),
    "tiny": (
        "BatchTopK and Matryoshka on the 4-layer model that comes with the package, for tests and quick tours.",
        _TINY | {"kind": ("batch_topk",), "levels": ("none", "nested")},
    ),
    "gpt2-small": (
        "The BatchTopK paper's GPT-2 small setting: layer 8, OpenWebText, 12,288 latents, k = 32 (needs the hub).",
        _GPT2 | {"kind": ("batch_topk",), "levels": ("none",)},
    ),
    "gpt2-small-matryoshka": (
        "GPT-2 small, layer 8, 36,864 latents in five levels, k = 32 (needs the hub).",
        _GPT2 | {"kind": ("batch_topk",), "n_latents": (36_864,), "levels": ("nested",)},
    ),
    "gemma-2-2b-matryoshka": (
        "The Matryoshka paper's Gemma setting: layer 12, 65,536 latents, five levels, k = 40 (needs the hub, a GPU).",
        _GEMMA | {"kind": ("batch_topk",), "levels": ("2048,6144,14336,30720,65536",)},
    ),
    "meta-saebench": (
        "For `meta`: SAEBench's meta-SAE, a quarter as many meta-latents, 1,500 batches of 1,024 decoder rows.",
        _META_SAEBENCH,
    ),
}


def recipe(name: str) -> dict[str, Any]:
    """The field values of a recipe.

    Raises:
        ValueError: there is no such recipe; the nearest is offered.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, fix="`matryo sae recipes` lists them")
    return dict(RECIPES[name][1])

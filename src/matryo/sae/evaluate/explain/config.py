"""How many latents are explained, from what, and by whom. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Constants of SAEBench's automatic interpretation, version 0.6.0, except where a line says otherwise."""

    explain_latents: int = 100
    "Latents drawn at random among those active often enough (SAEBench: 1,000)."
    explain_min_firings: int = 15
    "Latents active on this many tokens or fewer are left out."
    explain_tokens: int = 0
    "Held-out tokens read; 0 for all there are (SAEBench: 2,000,000 of the Pile)."
    explain_context: int = 10
    "Tokens shown on either side of a firing."
    explain_threshold: float = 0.01
    "A token counts as active above this share of the largest activation."
    explain_top: int = 10
    "Strongest windows that the explanation is made from."
    explain_weighted: int = 5
    "Weaker windows that it is made from, drawn with probabilities ∝ activation²."
    explain_test_top: int = 2
    "Strong windows that it is scored on."
    explain_test_weighted: int = 2
    "Weaker windows that it is scored on."
    explain_test_random: int = 10
    "Windows from anywhere that it is scored on."
    explain_judge: str | None = None
    "OpenAI-compatible endpoint, such as http://localhost:8000/v1; without it explanations are templated only."
    explain_judge_model: str = "gpt-4o-mini"
    "The judge's model."
    explain_judge_key: str = "OPENAI_API_KEY"
    "Environment variable that holds the endpoint's key, if it wants one."
    explain_judge_workers: int = 10
    "Questions to the judge at a time."
    explain_judge_timeout: float = 60.0
    "Seconds to wait for an answer."
    explain_seed: int = 42
    "Seed of what is drawn."

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("latents", "context", "top", "test_top", "test_random", "judge_workers"):
            value = getattr(self, f"explain_{name}")
            if value < 1:
                raise ValueError(f"explain_{name} is {value}; expected 1 or more")
        if not 0 <= self.explain_threshold < 1:
            raise ValueError(f"explain_threshold is {self.explain_threshold}; expected a share, 0 or more and below 1")
        for name in ("min_firings", "tokens", "weighted", "test_weighted"):
            value = getattr(self, f"explain_{name}")
            if value < 0:
                raise ValueError(f"explain_{name} is {value}; expected 0 or more")
        if not self.explain_judge_timeout > 0:
            raise ValueError(f"explain_judge_timeout is {self.explain_judge_timeout}; expected more than 0 seconds")
        if self.explain_judge is not None and not self.explain_judge.startswith(("http://", "https://")):
            raise ValueError(
                f"explain_judge is {self.explain_judge!r}; expected a URL such as http://localhost:8000/v1"
            )

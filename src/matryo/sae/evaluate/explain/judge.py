"""A language model as judge, behind any OpenAI-compatible endpoint: it explains latents and guesses where they fire."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

Messages = list[dict[str, str]]

EXPLANATION_TOKENS = 30
"""Longest explanation, in the judge's tokens (SAEBench)."""

ATTEMPTS = 3
"""Times a question is put when the endpoint is busy or fails."""


class JudgeError(OSError):
    """The endpoint cannot be used; the message is one line with the fix."""


@dataclass(frozen=True)
class Judge:
    """An endpoint and a model."""

    url: str
    "Without /chat/completions."
    model: str
    key: str | None = None
    timeout: float = 60.0
    pause: float = 1.0
    "Seconds before the second attempt, doubled before the third."

    @classmethod
    def at(cls, url: str, model: str, key_variable: str, timeout: float) -> Judge:
        """The judge at a URL, with the key of an environment variable where it is set."""
        return cls(url.rstrip("/").removesuffix("/chat/completions"), model, os.environ.get(key_variable), timeout)

    def ask(self, messages: Messages, max_tokens: int) -> str:
        """The judge's answer.

        Raises:
            JudgeError: it cannot be reached, refuses, or answers in another format.
        """
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "n": 1, "stream": False}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return _content(answer.read(), self.url)
            except urllib.error.HTTPError as error:
                if attempt == ATTEMPTS or not (error.code == 429 or error.code >= 500):
                    raise JudgeError(self._refused(error)) from error
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                reason = getattr(error, "reason", error)
                raise JudgeError(
                    f"the judge at {self.url} cannot be reached ({reason}): check the URL, or leave out --explain-judge"
                ) from error
            time.sleep(self.pause * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _refused(self, error: urllib.error.HTTPError) -> str:
        said = " ".join(error.read().decode(errors="replace").split())[:200]
        fix = "check the key's variable" if error.code in (401, 403) else "check the URL and the model's name"
        return f"the judge at {self.url} answered {error.code} for model {self.model!r} ({said}): {fix}"


def _content(body: bytes, url: str) -> str:
    try:
        return str(json.loads(body)["choices"][0]["message"]["content"]).strip()
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise JudgeError(
            f"the judge at {url} answered {body[:80]!r}; expected choices[0].message.content: is the endpoint "
            "OpenAI-compatible?"
        ) from error


def explanation_question(windows: Sequence[str]) -> Messages:
    """Ask what windows, their active tokens in << >>, have in common. The wording is ours, the form SAEBench's."""
    system = (
        "A unit of a language model responds to something in text: a word, a part of a word, a kind of word, or a "
        "topic. Below are passages in which it responds, the strongest first; the tokens it responds to are put in "
        "<< >>. Say what it responds to, so that someone could tell from your answer where it responds in new text. "
        "Be neither narrower nor wider than the passages; mind capitals and punctuation where they matter. Answer with "
        "one phrase of at most 20 words that completes the sentence: This neuron activates on"
    )
    return _messages(system, "\n".join(f"{i}. {window}" for i, window in enumerate(windows, 1)))


def detection_question(explanation: str, windows: Sequence[str]) -> Messages:
    """Ask in which of the windows the unit responds at least once."""
    system = (
        f"A unit of a language model responds to something in text. You are given what it responds to, and "
        f"{len(windows)} numbered passages in random order. Answer with the numbers of the passages in which it should "
        "respond to at least one token, separated by commas, such as: 2, 5, 11. If there are none, answer: None. "
        "Answer with nothing else."
    )
    numbered = "\n".join(f"{i}. {window}" for i, window in enumerate(windows, 1))
    return _messages(system, f"It responds to: {explanation}\n\n{numbered}")


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def read_explanation(answer: str) -> str:
    """The phrase, without the sentence it completes."""
    return answer.rpartition("activates on")[2].strip().rstrip(".").strip()


def read_numbers(answer: str) -> list[int] | None:
    """The numbers of an answer to `detection_question`; None when it is not a list of numbers.

    >>> read_numbers("1, 4 and 7."), read_numbers("None"), read_numbers("I think the first")
    ([1, 4, 7], [], None)
    """
    parts = re.split(r",|\band\b", answer.strip().rstrip(".").replace("None", ""))
    kept = [part.strip() for part in parts if part.strip()]
    return [int(part) for part in kept] if all(part.isdigit() for part in kept) else None


def answer_tokens(tests: int) -> int:
    """Longest list of numbers: two tokens each (SAEBench)."""
    return 2 * tests + 5

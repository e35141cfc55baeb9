"""SAEBench's labelled sets by name, from Hugging Face or from a local copy of the same files.

| name | data set | text | classes |
|---|---|---|---|
| bias_in_bios_1, _2, _3 | LabHC/bias_in_bios | hard_text | five professions each, half men, half women |
| amazon_category | canrager/amazon_reviews_mcauley_1and5 | text | five categories, half 1 star, half 5 stars |
| amazon_sentiment | the same | text | 1 or 5 stars |
| ag_news | fancyzhx/ag_news | text | world, sports, business, sci/tech |
| europarl | Helsinki-NLP/europarl | translation | en, fr, de, es, nl |
| github_code | codeparrot/github-code | content or code, from character 150 on | C, HTML, Java, PHP, Python |

and for SCR the eight pairs of SAEBench 0.6.0, such as bios_professor_nurse (profession × gender) and
amazon_books_cds_and_vinyl (category × stars). Every row is a document; rows are read in the order of the data set until
each class has enough, from the train split: SAEBench takes test texts of the test split, we split by seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matryo.sae.evaluate.tasks import CrossedTask, Task
from matryo.sae.text import HubSource
from matryo.spine.errors import unknown

PROFESSIONS: tuple[str, ...] = (
    "accountant", "architect", "attorney", "chiropractor", "comedian", "composer", "dentist", "dietitian", "dj",
    "filmmaker", "interior_designer", "journalist", "model", "nurse", "painter", "paralegal", "pastor",
    "personal_trainer", "photographer", "physician", "poet", "professor", "psychologist", "rapper",
    "software_engineer", "surgeon", "teacher", "yoga_teacher",
)  # fmt: skip
"""In the order of the bios set's numbers."""
CATEGORIES = {
    "Toys_and_Games": 1, "Cell_Phones_and_Accessories": 2, "Industrial_and_Scientific": 3, "Musical_Instruments": 5,
    "Electronics": 6, "Office_Products": 11, "Pet_Supplies": 18, "Books": 24, "CDs_and_Vinyl": 26, "Software": 30,
}  # fmt: skip
"""Of the amazon set's numbers, those used here."""
LANGUAGES = {"de": "de-en", "en": "en-fr", "es": "es-fr", "fr": "fr-it", "nl": "nl-pt"}
"""Each language with the configuration it is read from."""
SUFFIXES = {".c": "C", ".h": "C", ".html": "HTML", ".java": "Java", ".php": "PHP", ".py": "Python"}
"""Of github-code's files, which name no language."""
SKIPPED = 150
"""Characters of a source file, often a licence: 50 tokens at 3 characters, as SAEBench."""
SHORTEST_CODE = SKIPPED + 128 * 3
ORDER_ROWS = 2_000_000
"""Rows read in search of a class at most: a class that is not there would have a whole data set downloaded."""

Row = Mapping[str, Any]
Rows = Callable[..., Iterator[Row]]


@dataclass(frozen=True)
class HubTask:
    """How a task is made of rows.

    Attributes:
        repo: Name on Hugging Face.
        classes: Names of the classes, or of both attributes' pairs.
        pick: Text and label of a row, None where it has neither; a crossed task's label is 2 · first + second.
        balance: A second property each class is half of, such as gender; none where it is None.
        configs: Configurations of the data set that are read, one after another; each gives one class.
    """

    repo: str
    classes: Any
    pick: Callable[[Row], tuple[str, int] | None]
    balance: Callable[[Row], int] | None = None
    configs: tuple[str | None, ...] = (None,)
    crossed: bool = False
    files: str | None = None


def make_hub(name: str, folder: str | None, each: int) -> Task | CrossedTask:
    """The task of that name, `each` texts of every class (or quadrant) at most.

    Args:
        name: As in the table above.
        folder: A local copy to read instead of the hub: `datasets` must be able to load it.
        each: Texts of each class.

    Raises:
        OSError: no network, or no such files.
        ValueError: no such task, or rows without the fields.
    """
    made = HUB[name]
    texts: list[str] = []
    labels: list[int] = []
    groups: list[str] = []
    commit = None
    for config in made.configs:
        source = _source(made, folder, config)
        for at, text, label in _take(name, made, source, each, config):
            texts.append(text)
            labels.append(label)
            groups.append(f"{config or ''}/{at}")
        commit = source.describe()["commit"]
    told = {"kind": "hf", "name": made.repo, "folder": folder, "commit": commit, "split": "train"}
    array = np.array(labels, dtype=np.int64)
    if made.crossed:
        both = np.stack([array // 2, array % 2], axis=1).reshape(-1, 2)
        return CrossedTask(name, tuple(texts), both, made.classes, tuple(groups), told)
    return Task(name, tuple(texts), array, made.classes, tuple(groups), told)


def _source(made: HubTask, folder: str | None, config: str | None) -> HubSource:
    if folder is None:
        return HubSource(made.repo, config, files=made.files)
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(f"probing_data: there is no folder {folder!r}; expected a local copy of {made.repo}")
    # A copy has a folder for each configuration, or one alone.
    return HubSource(str(path / config if config and (path / config).is_dir() else path))


def _take(name: str, made: HubTask, source: HubSource, each: int, config: str | None) -> Iterable[tuple[int, str, int]]:
    """Row number, text and label, until every class has enough."""
    label_only = list(LANGUAGES).index(_language(config)) if config else None
    n_classes = 4 if made.crossed else len(made.classes)
    wanted = {label for label in range(n_classes) if label_only in (None, label)}
    cells = [(label, half) for label in wanted for half in ((0, 1) if made.balance else (0,))]
    quota = each // 2 if made.balance else each
    taken: Counter[tuple[int, int]] = Counter()
    for at, row in enumerate(source.rows()):
        if at == ORDER_ROWS or all(taken[cell] == quota for cell in cells):
            break
        try:
            found = made.pick(row) if label_only is None else (row["translation"][_language(config)], label_only)
            half = made.balance(row) if made.balance and found else 0
        except (KeyError, TypeError, ValueError, IndexError) as error:
            fields = ", ".join(f"{key}: {type(value).__name__}" for key, value in row.items())
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"task {name}: row {at} has {fields}; expected the fields of {made.repo} ({reason})"
            ) from None
        if found is None or not found[0].strip() or taken[found[1], half] == quota:
            continue
        taken[found[1], half] += 1
        yield at, found[0], found[1]


def _language(config: str | None) -> str:
    return next(language for language, pair in LANGUAGES.items() if pair == config)


def _bios(*professions: str) -> HubTask:
    numbers = {PROFESSIONS.index(p): label for label, p in enumerate(professions)}

    def pick(row: Row) -> tuple[str, int] | None:
        label = numbers.get(int(row["profession"]))
        return None if label is None else (row["hard_text"], label)

    return HubTask("LabHC/bias_in_bios", professions, pick, balance=lambda row: int(row["gender"]))


def _bios_pair(positive: str, negative: str) -> HubTask:
    numbers = {PROFESSIONS.index(negative): 0, PROFESSIONS.index(positive): 1}

    def pick(row: Row) -> tuple[str, int] | None:
        label = numbers.get(int(row["profession"]))
        return None if label is None else (row["hard_text"], 2 * label + 1 - int(row["gender"]))

    classes = ((negative, positive), ("female", "male"))
    return HubTask("LabHC/bias_in_bios", classes, pick, crossed=True)


_AMAZON = "canrager/amazon_reviews_mcauley_1and5"


def _stars(row: Row) -> int:
    return int(float(row["rating"]) == 5.0)


def _amazon(*categories: str) -> HubTask:
    numbers = {CATEGORIES[c]: label for label, c in enumerate(categories)}

    def pick(row: Row) -> tuple[str, int] | None:
        label = numbers.get(int(row["category"]))
        return None if label is None else (row["text"], label)

    return HubTask(_AMAZON, categories, pick, balance=_stars)


def _amazon_pair(positive: str, negative: str) -> HubTask:
    numbers = {CATEGORIES[negative]: 0, CATEGORIES[positive]: 1}

    def pick(row: Row) -> tuple[str, int] | None:
        label = numbers.get(int(row["category"]))
        return None if label is None else (row["text"], 2 * label + _stars(row))

    return HubTask(_AMAZON, ((negative, positive), ("1 star", "5 stars")), pick, crossed=True)


_CODE = ("C", "HTML", "Java", "PHP", "Python")


def _pick_code(row: Row) -> tuple[str, int] | None:
    language = row["language"] if "language" in row else SUFFIXES.get(Path(str(row["path"])).suffix.lower())
    code = row["code"] if "code" in row else row["content"]
    if language not in _CODE or len(code) <= SHORTEST_CODE:
        return None
    return code[SKIPPED:], _CODE.index(language)


HUB: dict[str, HubTask] = {
    "bias_in_bios_1": _bios("accountant", "architect", "attorney", "dentist", "filmmaker"),
    "bias_in_bios_2": _bios("journalist", "nurse", "painter", "photographer", "physician"),
    "bias_in_bios_3": _bios("poet", "professor", "psychologist", "surgeon", "teacher"),
    "amazon_category": _amazon(
        "Toys_and_Games", "Cell_Phones_and_Accessories", "Industrial_and_Scientific", "Musical_Instruments",
        "Electronics",
    ),
    "amazon_sentiment": HubTask(_AMAZON, ("1 star", "5 stars"), lambda row: (row["text"], _stars(row))),
    "ag_news": HubTask(
        "fancyzhx/ag_news", ("world", "sports", "business", "sci/tech"), lambda row: (row["text"], int(row["label"]))
    ),
    "europarl": HubTask("Helsinki-NLP/europarl", tuple(LANGUAGES), lambda row: None, configs=tuple(LANGUAGES.values())),
    "github_code": HubTask("codeparrot/github-code", _CODE, _pick_code, files="data/train-*.parquet"),
    **{
        f"bios_{one}_{other}": _bios_pair(one, other)
        for one, other in (
            ("professor", "nurse"), ("architect", "journalist"), ("surgeon", "psychologist"), ("attorney", "teacher")
        )
    },
    **{
        f"amazon_{one}_{other}".lower(): _amazon_pair(one, other)
        for one, other in (
            ("Books", "CDs_and_Vinyl"), ("Software", "Electronics"), ("Pet_Supplies", "Office_Products"),
            ("Industrial_and_Scientific", "Toys_and_Games"),
        )
    },
}  # fmt: skip
"""Every set by name."""


def check_folder(name: str, folder: str) -> None:
    """A set that may be read from a folder.

    Raises:
        ValueError: it is no set of the hub.
    """
    if name not in HUB:
        raise unknown("data set", name, HUB, f"only those of Hugging Face are read from a folder such as {folder}")

import re
from html.parser import HTMLParser

import pytest

from matryo.spine.report import Report, figure, raw, table, text, tokens

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects ids, links and what would be fetched."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.links, self.fetched, self.words = [], [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        self.fetched += [tag] if tag in {"link", "script", "img", "iframe", "object"} or "src" in values else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def written(report, tmp_path):
    report.write(tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_is_one_well_formed_file_that_fetches_nothing(tmp_path):
    report = Report("A <title>", "sub & title")
    report.section("Same name", "a <b>plain</b> string", text("two", "paragraphs & more"))
    report.section("Same name", table(["a"], [[1]], "caption <x>"), figure("<svg></svg>", "a < b"), raw("<hr>"))
    html = written(report, tmp_path)
    page = Page(html)
    assert not page.fetched
    assert not re.search(r"url\(|@import|https?:", html)
    assert len(set(page.ids)) == 2
    assert page.links == [f"#{name}" for name in page.ids]
    assert "a &lt;b&gt;plain&lt;/b&gt; string" in html
    assert "<title>A &lt;title&gt;</title>" in html
    assert "prefers-color-scheme: dark" in html
    assert "<hr>" in html
    assert "<svg></svg>" in html


def test_columns_of_numbers_are_right_aligned_and_formatted():
    html = table(
        [("name", "what it is"), "fvu", "count", "mixed"],
        [["a<b", 0.123456, 1234567, 1], [raw("<i>b</i>"), float("nan"), None, "x"]],
    )
    assert '<th title="what it is">name</th>' in html
    assert re.findall(r'<td class="n">([^<]*)</td>', html) == ["0.1235", "1,234,567", "–", "–"]
    assert re.findall(r'<th class="n">([^<]*)</th>', html) == ["fvu", "count"]
    assert "<td>a&lt;b</td>" in html
    assert "<td><i>b</i></td>" in html
    assert "<td>x</td>" in html


def test_true_is_a_word_and_zero_a_number():
    assert "<td>True</td>" in table(["a", "b"], [[True, 0], ["no", 1]])


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has 1 cells: expected 2"):
        table(["a", "b"], [[1]])


def test_tokens_are_tinted_by_value_and_escaped():
    html = tokens(["<eos>", " a", " b", " c"], [0.0, 0.1, 4.5, 9.0], top=9.0)
    assert re.findall(r'class="tok a(\d)" title="([^"]*)">([^<]*)<', html) == [
        ("0", "0", "&lt;eos&gt;"),
        ("1", "0.1", " a"),
        ("5", "4.5", " b"),
        ("9", "9", " c"),
    ]
    assert "a9" not in tokens(["x"], [0.0], top=0.0)
    with pytest.raises(ValueError, match="zip"):
        tokens(["x"], [0.0, 1.0], top=1.0)


def contrast(first, second):
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_text_stays_readable_at_every_tint_in_both_schemes(tmp_path):
    html = written(Report("x"), tmp_path)
    schemes = [dict(re.findall(r"--(\w+): (#\w+)", rule)) for rule in re.findall(r":root \{([^}]*)\}", html)]
    assert len(schemes) == 2
    for names in schemes:
        full = {
            key: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:]) for key, value in names.items()
        }
        colour = {key: [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)] for key, value in full.items()}
        for level in range(10):
            pairs = zip(colour["hot"], colour["paper"], strict=True)
            tint = [hot * level / 10 + paper * (1 - level / 10) for hot, paper in pairs]
            assert contrast(colour["ink"], tint) >= 4.5
        assert contrast(colour["soft"], colour["paper"]) >= 4.5
        assert contrast(colour["link"], colour["paper"]) >= 4.5
    assert ".a9 { --a: 9 }" in html

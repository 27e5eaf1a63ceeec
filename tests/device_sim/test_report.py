"""The report page: complete, alone in the world, escaped, and the same for the same run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from device_sim.history import History, PhoneEvent
from device_sim.report import render
from device_sim.report.protection import epsilon
from tests.device_sim.histories import history, hostile, plain, round_record, summary

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script src=//x.example>\"'&amp;</style></svg>$x_1$ 電話"


class Page(HTMLParser):
    """Checks that elements close in order; collects what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture(scope="module")
def rendered() -> str:
    return render(history(), summary())


@pytest.mark.parametrize(
    "words",
    [
        "72.5%", "35.0%", "93.0%", "136", "203.6\N{NO-BREAK SPACE}kB", "61.2\N{NO-BREAK SPACE}s", "Phones that trained",
        "Accuracy by round", "Loss by round", "All data pooled (what federation avoids)", "Each phone alone (mean)",
        "Participants and dropouts by round", "network-lost", "Examples by device, and their class mix",
        "Each phone alone against the shared model", "One phone's day: phone-3", "selection-pending", "battery-low",
        "What left the phones, and what did not", "fixed-point integers, noised, masked, and signed",
        "How the reports were added up", "8 groups formed, 4 of them opened their sum", "too-few-shared 1",
        "(of 34 reports and more)", "Any single report.", "Groups by round",
        "Privacy, in figures", "104", "43.6", "0.0063", "1.5", "104 is no useful promise",
        "1.5 points of accuracy: without noise the same phones, rounds and seed reach 74.0%",
        "ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}5.5 at", "2.5e\N{NON-BREAKING HYPHEN}07 against",
        "ε\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.57", "ε = 103.205 at δ = 0.0063 against the coordinator.",
        "Every round", "5f" * 32,
    ],
)  # fmt: skip
def test_the_page_shows(rendered: str, words: str) -> None:
    assert words in Page(rendered).text


@pytest.mark.parametrize(
    "words",
    [
        "plain summing: the coordinator sees each report", "Each report, with the phone it came from",
        "Mode none: no noise is added, so there is no figure to give.", "fixed-point integers, and signed",
    ],
)  # fmt: skip
def test_the_page_of_a_plain_run_shows(words: str) -> None:
    text = Page(render(*plain())).text
    assert words in text
    assert "ε" not in text


def test_reasons_of_aborted_groups_have_a_column_where_there_are_any() -> None:
    whole = [dataclasses.replace(one, groups=one.groups[:1]) for one in history().rounds]
    assert "Aborted, and why" not in Page(render(dataclasses.replace(history(), rounds=tuple(whole)), summary())).text
    assert "Aborted, and why" in Page(render(history(), summary())).text


def test_no_bound_is_rounded_down() -> None:
    assert [epsilon(value) for value in (0.561, 1.001, 5.44, 99.91, 99.99, 100.2, 12_345.6)] == [
        "0.57", "1.1", "5.5", "100.0", "100.0", "101", "12,346"
    ]  # fmt: skip


def test_noise_that_cost_nothing_is_not_made_a_gain() -> None:
    better = dataclasses.replace(summary(), accuracy_without_noise=0.7)
    text = Page(render(history(), better)).text
    assert "nothing that can be measured on so few examples" in text
    assert "\N{MINUS SIGN}2.5" in text


def test_the_page_loads_nothing(rendered: str) -> None:
    page = Page(rendered)
    assert not {"script", "link", "img", "iframe", "object", "image", "base"} & {tag for tag, _ in page.tags}
    assert "http:" not in rendered
    assert "https:" not in rendered
    assert "@import" not in rendered
    references = [value for _, attributes in page.tags for name, value in attributes.items() if name.endswith("href")]
    targets = re.findall(r"url\(([^)]*)\)", rendered)
    assert all(value is not None and value.startswith("#") for value in [*references, *targets])


def test_every_reference_inside_the_page_has_one_target(rendered: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', rendered)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', rendered)) <= set(ids)
    assert set(re.findall(r'aria-labelledby="([^"]*)"', rendered)) <= set(ids)


def test_every_picture_says_what_it_shows(rendered: str) -> None:
    pictures = Page(rendered).named("svg")
    assert len(pictures) == 6
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 20 for one in pictures)


def test_pictures_take_their_colours_from_the_page(rendered: str) -> None:
    assert "#fe00" not in rendered
    declared = set(re.findall(r"(--[\w-]+):", rendered))
    assert set(re.findall(r"var\((--[\w-]+)\)", rendered)) <= declared


def test_every_table_has_headers_with_a_scope(rendered: str) -> None:
    page = Page(rendered)
    assert len(page.named("table")) == len(page.named("caption")) == 3
    assert {one.get("scope") for one in page.named("th")} == {"col", "row"}


def test_equal_histories_give_equal_pages(rendered: str) -> None:
    assert render(history(), summary()) == rendered


def test_texts_of_others_are_escaped() -> None:
    text = render(*hostile(HOSTILE))
    page = Page(text)
    assert not page.named("script")
    assert "<script" not in text
    assert page.text.count(HOSTILE) >= 6


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(history(rounds=60), id="many rounds"),
        pytest.param(
            dataclasses.replace(
                history(),
                phone=(PhoneEvent(at_s=86000.0, what="rebooted", detail=""),),
                examples_by_device=((0,),),
            ),
            id="an event of another kind late in the day, one empty device, one class",
        ),
        pytest.param(
            dataclasses.replace(
                history(),
                rounds=(dataclasses.replace(round_record(1, {}), chosen=0, reported=0, loss=0.0),),
                initial_loss=0.0,
                phone=(),
            ),
            id="nobody took part, no loss, no events",
        ),
    ],
)
def test_the_page_is_whole_for(changed: History) -> None:
    page = Page(render(changed, summary()))
    assert len(page.named("section")) == 9
    assert "nan" not in page.text.lower().split()


def test_one_round_without_dropouts_is_enough_for_a_page() -> None:
    page = Page(render(dataclasses.replace(history(), rounds=(round_record(1, {}),)), summary()))
    assert len(page.named("section")) == 9
    assert "No participant dropped out." in page.text


def test_rare_reasons_are_drawn_together_and_still_listed() -> None:
    reasons = {f"reason-{index}": 9 - index for index in range(9)}
    text = Page(render(dataclasses.replace(history(), rounds=(round_record(1, reasons),)), summary())).text
    assert "other: 10" in text
    assert "reason-8" in text


def test_the_same_event_again_and_again_is_one_line(rendered: str) -> None:
    assert "(2 times, until 0.9\N{NO-BREAK SPACE}s)" in Page(rendered).text


def test_naming_the_report_does_not_import_the_drawing_library() -> None:
    code = "import sys, device_sim.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""What the demo says in the terminal at its end."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from device_sim.history import History, Summary
from device_sim.terminal import print_summary
from tests.device_sim.histories import history, plain, summary


def said(whole: History, short: Summary) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_summary(console, whole, short, Path("build/demo"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_noised_run_shows_both_figures_what_the_noise_cost_and_that_they_promise_little() -> None:
    text = said(history(), summary())
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in text.splitlines() if "│" in line}
    assert rows["sums"] == "secure, 4 of 8 groups"
    assert (rows["ε against the coordinator"], rows["ε against recipients"], rows["at δ"]) == ("104", "43.6", "0.0063")
    assert rows["accuracy without noise"] == "74.0%"
    assert "An ε this large promises little" in text
    assert "warning" not in text


def test_a_plain_run_repeats_the_warning_and_shows_no_figure() -> None:
    text = said(*plain())
    assert "warning  plain summing: the coordinator sees each report" in text
    assert "ε" not in text

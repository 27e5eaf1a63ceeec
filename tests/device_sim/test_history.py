"""What the demo records: the keys of the summary, the way to JSON and back, and numbers that are numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from device_sim.history import Baselines, History, PhoneEvent, Summary, write_history, write_summary
from edge_runtime.protocol import wire
from tests.device_sim.histories import history, round_record, summary

KEYS = [
    "rounds", "devices", "reports_counted", "accuracy_initial", "accuracy_final", "accuracy_local_mean",
    "accuracy_central", "seconds", "bytes_up_per_report", "final_weights_sha256", "privacy_mode",
    "epsilon_coordinator", "epsilon_recipients", "target_delta", "accuracy_without_noise",
]  # fmt: skip


def test_the_summary_has_exactly_the_promised_keys(tmp_path: Path) -> None:
    write_summary(summary(), tmp_path / "summary.json")
    assert list(json.loads((tmp_path / "summary.json").read_text())) == KEYS


def test_the_summary_comes_back_from_its_file(tmp_path: Path) -> None:
    write_summary(summary(), tmp_path / "summary.json")
    assert wire.decode(Summary, (tmp_path / "summary.json").read_bytes()) == summary()


def test_the_history_comes_back_from_its_file(tmp_path: Path) -> None:
    write_history(history(), tmp_path / "history.json")
    plain = json.loads(json.dumps(dataclasses.asdict(history())))
    assert json.loads((tmp_path / "history.json").read_text()) == plain
    assert set(plain) == {field.name for field in dataclasses.fields(History)}


def test_equal_histories_are_equal_files(tmp_path: Path) -> None:
    write_history(history(), tmp_path / "one.json")
    write_history(history(), tmp_path / "other.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="accuracy_final is not a finite number"):
        dataclasses.replace(summary(), accuracy_final=number)
    with pytest.raises(ValueError, match="loss is not a finite number"):
        dataclasses.replace(round_record(1), loss=number)
    with pytest.raises(ValueError, match="initial_loss is not a finite number"):
        dataclasses.replace(history(), initial_loss=number)
    with pytest.raises(ValueError, match="local is not a finite number"):
        Baselines(local=(0.5, number), local_mean=0.5, central=0.9)
    with pytest.raises(ValueError, match="at_s is not a finite number"):
        PhoneEvent(at_s=number, what="check-in", detail="")


def test_a_history_without_rounds_or_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        dataclasses.replace(history(), rounds=())
    with pytest.raises(ValueError, match="at least one round and one training device"):
        dataclasses.replace(history(), examples_by_device=())


@pytest.mark.parametrize("counts", [((1, 2), (3,)), ((), ())])
def test_devices_that_count_different_classes_are_refused(counts: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="counts the same classes"):
        dataclasses.replace(history(), examples_by_device=counts)

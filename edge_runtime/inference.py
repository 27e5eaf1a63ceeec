"""Inference: with the released model, and with the one that this device made its own. Never touches the network."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime.device import Device
from edge_runtime.examples import Features
from edge_runtime.journal.state import Held, State, wanting_release
from edge_runtime.model import Model
from edge_runtime.personal import personalised as made_personal
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import BUNDLE_LIMIT_BYTES, verify_bundle
from edge_runtime.protocol.checkin import bundle_path, checkpoint_path
from edge_runtime.protocol.checkpoint import Weights, checkpoint_bytes, verify_checkpoint
from edge_runtime.protocol.errors import NotFound
from edge_runtime.session import Session
from edge_runtime.session.visit import current_release

Outputs = dict[str, npt.NDArray[np.float32]]

ASK_EVERY_S: Final = 86_400.0
"""How often a slice asks for a newer release, if the app infers."""


def is_due(state: State, now_s: float) -> bool:
    """Whether a slice should ask for a newer release."""
    asked_at_s = state.release_asked_at_s
    return state.release_wanted and (asked_at_s is None or now_s - asked_at_s >= ASK_EVERY_S)


def renewed(device: Device) -> Session[Held]:
    """Ask which model is released, and fetch what is not on disk; all of it is verified.

    Raises:
        Refusal: There is none, or it is not what digests and trust roots say.
    """
    held = device.state.release
    here = None if held is None else held.checkpoint_sha256
    released = yield from current_release(device.installation.population, here)
    sha256, roots = released.bundle_sha256, device.roots
    raw = yield from device.downloads.obtain(bundle_path(sha256), sha256, BUNDLE_LIMIT_BYTES)
    bundle = verify_bundle(raw, sha256, roots.tenant)
    sha256, parameters = released.checkpoint_sha256, bundle.manifest.parameters
    limit = max(checkpoint_bytes(parameters), wire.MESSAGE_LIMIT_BYTES)
    raw = yield from device.downloads.obtain(checkpoint_path(sha256), sha256, limit)
    verify_checkpoint(raw, sha256, roots.coordinator, bundle_sha256=bundle.sha256, parameters=parameters)
    return Held(bundle_sha256=released.bundle_sha256, checkpoint_sha256=sha256, model_version=released.model_version)


class Inference:
    """The model in memory, loaded at the first call and again when another one is released. Safe from any thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._turn = threading.Lock()
        self._model: Model | None = None
        self._released: Weights | None = None
        self._held: Held | None = None

    def infer(self, x: Features, *, own: bool) -> Outputs:
        """Every output by name. The text of `Runtime.infer` says the rest."""
        with self._turn:
            model, released = self._loaded()
            weights = released
            if own:
                trained = self._device.journal.personal(model.bundle.sha256)
                weights = made_personal(released, trained, model.manifest)
            model.set_weights(weights)
            return model.infer(x)

    def close(self) -> None:
        """Give the memory back."""
        with self._turn:
            self._model = self._released = self._held = None

    def _loaded(self) -> tuple[Model, Weights]:
        device, held = self._device, self._device.state.release
        if not device.state.release_wanted:
            device.journal.update(wanting_release)
        if held is None:
            raise NotFound("no released model is on this device yet; a later slice, or `renew`, fetches it")
        if self._model is None or self._released is None or self._held != held:
            self._model, self._released = self._read(held)
            self._held = held
        return self._model, self._released

    def _read(self, held: Held) -> tuple[Model, Weights]:
        device = self._device
        raw, weights = device.downloads.read(held.bundle_sha256), device.downloads.read(held.checkpoint_sha256)
        if raw is None or weights is None:
            raise NotFound("the released model is not as it was written; a later slice, or `renew`, fetches it")
        bundle = verify_bundle(raw, held.bundle_sha256, device.roots.tenant)
        checkpoint = verify_checkpoint(
            weights,
            held.checkpoint_sha256,
            device.roots.coordinator,
            bundle_sha256=bundle.sha256,
            parameters=bundle.manifest.parameters,
        )
        if self._model is not None and self._model.bundle.sha256 == bundle.sha256:
            return self._model, checkpoint.weights
        return device.engine.open(bundle), checkpoint.weights

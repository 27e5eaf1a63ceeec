"""The demo's federated averaging once more, without HTTP, lanes, coordinator or clock: what the real one must equal.

It shares the interpreter's training and the simulator's draws with the product, and nothing after them: selection,
clipping, rounding, summing (in 64-bit integers, without a modulus) and the update are written out from their formulas.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from device_sim.behaviour import behaviour, generator
from device_sim.datasets import load
from device_sim.fleet import noise_of, phone_key, pooled
from device_sim.recipes import RECIPES
from edge_runtime.model import Model, open_model
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.noise import DiscreteGaussian
from edge_runtime.protocol.plan import Plan, Privacy, Summing
from edge_runtime.training import train

CHECKPOINT_HEADER_BYTES, SIGNATURE_BYTES = 56, 64
Vector = np.ndarray[Any, Any]


def final_weights_sha256(folder: Path, devices: int, rounds: int, seed: int) -> str:
    """The digest that a demo of the digits must end with, from the bundle, first checkpoint and plan in its folder."""
    weights, _model = trained(folder, devices, rounds, seed)
    return hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest()


def accuracy_without_noise(folder: Path, devices: int, rounds: int, seed: int) -> float:
    """On the held-out phones, had nobody added noise."""
    weights, model = trained(folder, devices, rounds, seed, noise_multiplier=0.0, privacy=Privacy.NONE)
    model.set_weights(weights)
    return model.evaluate(pooled(load("digits", devices=devices, seed=seed).held_out)).accuracy


def trained(folder: Path, devices: int, rounds: int, seed: int, **changed: Any) -> tuple[Vector, Model]:
    """The last weights, under the plan in the folder or a changed one."""
    dataset = load("digits", devices=devices, seed=seed)
    key = SigningKey(bytes.fromhex((folder / "tenant.key").read_text().strip())).public
    raw = (folder / "bundle.ewb").read_bytes()
    model = open_model(verify_bundle(raw, hashlib.sha256(raw).hexdigest(), key))
    first = (folder / "checkpoint.ewc").read_bytes()[CHECKPOINT_HEADER_BYTES:-SIGNATURE_BYTES]
    weights: Vector = np.frombuffer(first, "<f4").astype(np.float32)
    plan = replace(wire.decode(Plan, (folder / "plan.json").read_bytes()), **changed)
    rate = RECIPES["digits"].server_learning_rate / plan.expected_participants
    for number in range(1, rounds + 1):
        total, reports = np.zeros(weights.size, np.int64), 0
        for phone in chosen(seed, number, len(dataset.training), plan):
            happens = behaviour(generator(seed, 0, phone, number))
            if happens.dropout is None and not happens.silent:
                order = generator(seed, 1, phone, number)
                delta = train(model, weights, plan, dataset.training[phone], order).delta
                total += rounded(delta, plan, generator(seed, 2, phone, number))
                if plan.noise_multiplier:
                    steps = DiscreteGaussian(deviation(plan) * scale(plan))
                    total += steps.draw(weights.size, noise_of(seed, phone, number))
                reports += 1
        groups = groups_of(reports, plan)
        weights = (weights.astype(np.float64) + total / scale(plan) * rate / groups).astype(np.float32)
    return weights, model


def chosen(seed: int, number: int, phones: int, plan: Plan) -> list[int]:
    """The phones with the smallest HMACs under the round's seed."""
    task_seed = hashlib.sha256(f"edgewise/demo/{seed}".encode()).digest()
    round_seed = hmac.new(task_seed, b"edgewise/round/v1\0" + number.to_bytes(8, "big"), "sha256").digest()

    def rank(phone: int) -> bytes:
        public = phone_key(seed, phone).public.raw
        device = hashlib.sha256(b"edgewise/device/v1\0demo\0" + public).hexdigest()[:32]
        return hmac.new(round_seed, device.encode(), "sha256").digest()

    for_one_group = min(plan.max_participants, math.ceil(plan.goal * 1.3))
    groups = phones // for_one_group if plan.summing is Summing.SECURE else 1
    return sorted(range(phones), key=rank)[: for_one_group * max(1, groups)]


def groups_of(reports: int, plan: Plan) -> int:
    """Groups that sum securely: as few as hold all. Whatever the grouping, the sum over all of them is one sum."""
    if plan.survivors is None:
        return 1
    groups = -(-reports // plan.max_participants)
    assert reports // groups >= plan.survivors
    return groups


def deviation(plan: Plan) -> float:
    """The noise of one phone, σ = z C / √(m - A), A the largest whole number below γ n."""
    if plan.survivors is None:
        return 0.0
    honest = plan.survivors - plan.corrupt_permille * plan.max_participants // 1000
    return plan.noise_multiplier * plan.clipping_norm / math.sqrt(honest)


def scale(plan: Plan) -> float:
    """s = (2^(b-1) - 1 - n) / (n C + 9 √n σ), for 24 bits and more."""
    most = plan.max_participants
    room = most * plan.clipping_norm + 9 * math.sqrt(most) * deviation(plan)
    return ((1 << (plan.lane_bits - 1)) - 1 - most) / room


def rounded(delta: Vector, plan: Plan, rng: np.random.Generator) -> Vector:
    """Clip to the plan's norm, scale, and round up with the probability of the fraction.

    Where noise is to hide it: again, until the norm is at most √((s C)² + d/4 + s C + √d/2).
    """
    norm = float(np.linalg.norm(delta.astype(np.float64)))
    if norm > plan.clipping_norm:
        delta = (delta.astype(np.float64) * (plan.clipping_norm / norm)).astype(np.float32)
    scaled = delta.astype(np.float64) * scale(plan)
    whole = np.floor(scaled)
    steps, size = scale(plan) * plan.clipping_norm, scaled.size
    most = math.inf
    if plan.noise_multiplier:
        most = (steps**2 + size / 4 + steps + math.sqrt(size) / 2) * (1 + 1e-6)
    while True:
        lanes: Vector = (whole + (rng.random(scaled.shape) < scaled - whole)).astype(np.int64)
        if float(np.dot(lanes, lanes)) <= most:
            return lanes

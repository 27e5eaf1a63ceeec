"""Server optimisers: what turns the sum of a round's deltas into an update of the model.

Pure functions with explicit state. Everything is float64, and every operation is of one value at a time in a fixed
order, so that the same sum, state and settings give the same bits on every machine. The mean delta is
``delta_sum / expected_participants``: the denominator is fixed, whoever came.

| name | update, for a mean delta d and learning rate η |
|---|---|
| sgd | η d |
| momentum | m ← β₁ m + d; η m |
| adagrad | v ← v + d²; η d / (√v + τ) |
| adam | m ← β₁ m + (1 - β₁) d; v ← β₂ v + (1 - β₂) d²; η m / (√v + τ) |
| yogi | m as adam; v ← v - (1 - β₂) d² sign(v - d²); η m / (√v + τ) |

m begins at 0 and v at τ². There is no correction of the first steps.
Sources: https://arxiv.org/abs/2003.00295 (algorithm 2; adagrad with β₁ = 0); momentum: https://arxiv.org/abs/1909.06335.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.core.task_settings import Optimiser, ServerOptimiser
from edge_runtime.protocol.errors import DigestMismatch

Values = npt.NDArray[np.float64]

_HEADER: Final = struct.Struct("<4sHH16sQ")
_MAGIC: Final = b"EWOS"
_VERSION: Final = 1
_FIRST: Final = frozenset({Optimiser.MOMENTUM, Optimiser.ADAM, Optimiser.YOGI})
_SECOND: Final = frozenset({Optimiser.ADAGRAD, Optimiser.ADAM, Optimiser.YOGI})


@dataclass(frozen=True, slots=True, eq=False)
class OptimiserState:
    """What a server optimiser remembers between updates; sgd remembers nothing.

    Attributes:
        first: m, shape ``(shared parameters,)``; None where the optimiser has none.
        second: v, of the same shape; None where the optimiser has none.
    """

    first: Values | None = None
    second: Values | None = None


def begin(optimiser: ServerOptimiser, size: int) -> OptimiserState:
    """The state before the first update of `size` shared parameters."""
    return OptimiserState(
        np.zeros(size) if optimiser.name in _FIRST else None,
        np.full(size, optimiser.tau**2) if optimiser.name in _SECOND else None,
    )


def step(
    optimiser: ServerOptimiser, state: OptimiserState, delta_sum: Values, expected_participants: int
) -> tuple[Values, OptimiserState]:
    """Turn a sum of deltas into what is added to the shared weights; nothing given is changed.

    Guarantee: with sgd, one participant whose delta has norm at most C moves the update by at most
    ``learning_rate * C / expected_participants`` in L2 norm. The adaptive optimisers scale each value by 1 / (√v + τ),
    at most 1 / τ.

    Args:
        delta_sum: Float64, shape ``(shared parameters,)``.

    Raises:
        ValueError: The state is of another optimiser or size: a bug of the caller.
    """
    if (state.first is not None, state.second is not None) != (optimiser.name in _FIRST, optimiser.name in _SECOND):
        raise ValueError(f"the state is not one of {optimiser.name}")
    if any(part is not None and part.shape != delta_sum.shape for part in (state.first, state.second)):
        raise ValueError("the state is of another model")
    if optimiser.name is Optimiser.SGD:
        return delta_sum * (optimiser.learning_rate / expected_participants), state
    mean = delta_sum / expected_participants
    first = _first(optimiser, state.first, mean)
    second = _second(optimiser, state.second, mean)
    update = optimiser.learning_rate * (mean if first is None else first)
    if second is not None:
        update = update / (np.sqrt(second) + optimiser.tau)
    return update, OptimiserState(first, second)


def _first(optimiser: ServerOptimiser, first: Values | None, mean: Values) -> Values | None:
    if first is None:
        return None
    if optimiser.name is Optimiser.MOMENTUM:
        return optimiser.beta1 * first + mean
    return optimiser.beta1 * first + (1 - optimiser.beta1) * mean


def _second(optimiser: ServerOptimiser, second: Values | None, mean: Values) -> Values | None:
    if second is None:
        return None
    squared = mean * mean
    if optimiser.name is Optimiser.ADAGRAD:
        return second + squared
    if optimiser.name is Optimiser.ADAM:
        return optimiser.beta2 * second + (1 - optimiser.beta2) * squared
    towards: Values = np.sign(second - squared)
    return second - (1 - optimiser.beta2) * squared * towards


def encode_state(state: OptimiserState, task_id: str) -> bytes | None:
    """Write a state as the bytes of a blob; None for a state that remembers nothing.

    Layout, little-endian: magic `EWOS`, u16 version, u16 which of m (1) and v (2) follow, the task (16 bytes, so that
    no two tasks share a blob), u64 values of each, then m and v as float64.
    """
    parts = [part for part in (state.first, state.second) if part is not None]
    if not parts:
        return None
    which = (state.first is not None) + 2 * (state.second is not None)
    header = _HEADER.pack(_MAGIC, _VERSION, which, bytes.fromhex(task_id), parts[0].size)
    return header + b"".join(part.astype("<f8", copy=False).tobytes() for part in parts)


def decode_state(raw: bytes, task_id: str, optimiser: ServerOptimiser, size: int) -> OptimiserState:
    """Read the state of a task's optimiser.

    Raises:
        DigestMismatch: The bytes are not a state of this task, optimiser and number of parameters.
    """
    which = (optimiser.name in _FIRST) + 2 * (optimiser.name in _SECOND)
    expected = _HEADER.pack(_MAGIC, _VERSION, which, bytes.fromhex(task_id), size)
    if raw[: _HEADER.size] != expected or len(raw) != _HEADER.size + 8 * size * which.bit_count():
        raise DigestMismatch("the optimiser state is not of this task")
    values = np.frombuffer(raw, "<f8", offset=_HEADER.size).astype(np.float64)
    return OptimiserState(values[:size] if which & 1 else None, values[-size:] if which & 2 else None)

"""What both Python packages of TFLite share: signatures as callables, each set up when it is first wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.interpreters import Array, failures_translated


class Signatures:
    """The signatures of a loaded graph. A signature takes memory from its first call on: a device rarely needs all."""

    def __init__(self, interpreter: Any, runtime: str) -> None:
        self.runtime = runtime
        self._interpreter = interpreter
        self._names = tuple(sorted(interpreter.get_signature_list()))
        self._runners: dict[str, Any] = {}

    def signatures(self) -> tuple[str, ...]:
        return self._names

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if signature not in self._names:
            raise KeyError(signature)
        with failures_translated(self.runtime, f"run {signature}"):
            if signature not in self._runners:
                self._runners[signature] = self._interpreter.get_signature_runner(signature)
            return dict(self._runners[signature](**inputs))

"""What every interpreter must do: the wheels, and the bridges of phones over fakes of Java and Swift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np
import pytest

from edge_runtime.interpreters import Array
from edge_runtime.protocol.errors import InterpreterFailed
from model_export.spec import Exported
from tests.edge_runtime.test_training import first_weights, plan_for, stripes
from tests.exports import BATCH_SIZE, INPUT_SHAPE
from tests.workers import Workers

TASKS: Final = "tests.edge_runtime.bridges.tasks"
MODEL: Final = "mlp"
LEAK_BYTES: Final = 6 << 20
"""An interpreter of this model takes about 1 MB."""

WRONG: Final[dict[str, dict[str, Array]]] = {
    "missing": {},
    "misnamed": {"y": np.zeros((BATCH_SIZE, *INPUT_SHAPE), np.float32)},
    "one too many": {
        "x": np.zeros((BATCH_SIZE, *INPUT_SHAPE), np.float32),
        "z": np.zeros((BATCH_SIZE, *INPUT_SHAPE), np.float32),
    },
    "of another dtype": {"x": np.zeros((BATCH_SIZE, *INPUT_SHAPE), np.float64)},
    "of another shape": {"x": np.zeros((BATCH_SIZE, INPUT_SHAPE[0], INPUT_SHAPE[1] + 1, 1), np.float32)},
}
"""`infer` refuses each, on every runtime. Other wrong inputs a runtime may take: `Model` checks them before."""


class InterpreterContract:
    """Subclass it for each interpreter."""

    which: ClassVar[str]
    worker: ClassVar[str] = "litert"
    """In which its library is loaded."""
    package: ClassVar[str]
    exact: ClassVar[bool] = True
    """Whether it must give the bits that ai-edge-litert gives; another library's kernels need not."""

    @pytest.fixture
    def ask(self, workers: Workers) -> Callable[..., Any]:
        """``ask(task, ...)``: the task with this interpreter; also ``ask(task, ..., of="litert")``."""

        def asked(task: str, *args: object, of: str = "") -> Any:
            worker = "litert" if of else self.worker
            return workers[worker].run(f"{TASKS}:{task}", of or self.which, *args)

        return asked

    @pytest.fixture
    def fixed(self, exported: Callable[[str], Exported]) -> Exported:
        return exported(MODEL)

    @pytest.fixture
    def any_rows(self, workers: Workers) -> Exported:
        """The model with batches of any size."""
        found: Exported = workers["tensorflow"].run(f"{TASKS}:dynamic", MODEL)
        return found

    def test_it_names_its_runtime_and_its_signatures(self, ask: Callable[..., Any], fixed: Exported) -> None:
        runtime, signatures = ask("named", fixed)
        assert runtime.startswith(f"{self.package} ")
        assert signatures == tuple(sorted(fixed.manifest.signatures))

    @pytest.mark.parametrize("rows", [[BATCH_SIZE] * 4], ids=["full batches"])
    def test_a_fixed_batch_gives_the_bits_of_litert(
        self, ask: Callable[..., Any], fixed: Exported, rows: list[int]
    ) -> None:
        self.same(ask("sequence", fixed, rows), ask("sequence", fixed, rows, of="litert"))

    @pytest.mark.parametrize("rows", [[1, 5, 5, 3, 3, 5, 1, 4]], ids=["rows come and go"])
    def test_a_dynamic_batch_gives_the_bits_of_litert(
        self, ask: Callable[..., Any], any_rows: Exported, rows: list[int]
    ) -> None:
        self.same(ask("sequence", any_rows, rows), ask("sequence", any_rows, rows, of="litert"))

    def test_a_whole_plan_trains_to_the_bits_of_litert(self, ask: Callable[..., Any], fixed: Exported) -> None:
        arguments = (fixed, first_weights(fixed), plan_for(fixed), stripes(17))
        ours, theirs = ask("trained", *arguments), ask("trained", *arguments, of="litert")
        assert ours.loss_last < ours.loss_first
        assert ours.steps == theirs.steps
        self.same([{"delta": ours.delta}], [{"delta": theirs.delta}])

    @pytest.mark.parametrize("name", WRONG)
    def test_what_does_not_fit_is_refused(self, ask: Callable[..., Any], fixed: Exported, name: str) -> None:
        with pytest.raises(InterpreterFailed, match="could not run infer"):
            ask("infer", fixed, WRONG[name])

    def test_a_signature_that_is_not_there_is_a_mistake(self, ask: Callable[..., Any], fixed: Exported) -> None:
        with pytest.raises(KeyError):
            ask("unknown", fixed)

    @pytest.mark.parametrize("graph", [b"", b"not a graph"])
    def test_a_graph_that_cannot_be_loaded_is_refused(self, ask: Callable[..., Any], graph: bytes) -> None:
        with pytest.raises(InterpreterFailed, match="could not load the graph"):
            ask("load", graph)

    def test_an_answer_stays_as_it_was_when_the_next_comes(self, ask: Callable[..., Any], fixed: Exported) -> None:
        copies, answer = ask("kept", fixed)
        self.same([copies], [answer], exact=True)

    def test_opening_and_dropping_leaves_no_memory_behind(self, ask: Callable[..., Any], fixed: Exported) -> None:
        assert ask("grown_bytes", fixed, 30) < LEAK_BYTES

    def test_one_on_each_of_several_threads_is_as_good_as_one(self, ask: Callable[..., Any], fixed: Exported) -> None:
        (first, *others) = ask("in_threads", fixed, 4)
        assert len(others) == 3
        for other in others:
            self.same(first, other, exact=True)

    def same(self, ours: list[dict[str, Array]], theirs: list[dict[str, Array]], exact: bool | None = None) -> None:
        """Names, dtypes, shapes and bits are equal; or the values are close."""
        assert [sorted(one) for one in ours] == [sorted(one) for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            for name, values in one.items():
                assert (values.dtype, values.shape) == (other[name].dtype, other[name].shape), name
                if self.exact if exact is None else exact:
                    assert values.tobytes() == other[name].tobytes(), name
                else:
                    assert np.allclose(values, other[name], rtol=1e-4, atol=1e-5), name

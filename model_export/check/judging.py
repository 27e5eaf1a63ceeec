"""From what was found to verdict, energy class and warnings: pure, and all thresholds in one place.

The thresholds are explained in `docs/trainability.md`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_runtime.protocol.bundle import Manifest
from model_export.check.case import Facts
from model_export.check.report import (
    Concern,
    Energy,
    EnergyClass,
    Exportation,
    Reach,
    RuntimeReport,
    Verdict,
    Warned,
)
from model_export.check.words import byte_count, milliseconds
from model_export.verify import Step

PHONE_SLOWER: Final = 2.0
"""A phone's large core is taken to need so many times the CPU time measured here."""
CORE_WATTS: Final = 2.0
"""What one busy large core of a phone, with its share of the memory, is taken to draw."""
BATTERY_JOULES: Final = 54_000.0
"""15 Wh: 4,000 mAh at 3.8 V."""
CLASSES: Final = (
    (EnergyClass.A, 0.0001),
    (EnergyClass.B, 0.001),
    (EnergyClass.C, 0.01),
    (EnergyClass.D, 0.05),
)
"""Largest share of a battery for 1,000 examples; E is beyond."""

ANY_PHONE: Final = (1.0, 200e6)
"""Seconds of a step on a phone, and bytes of memory, up to which any phone will do."""
RECENT_PHONE: Final = (10.0, 600e6)

LARGE_REPORT_BYTES: Final = 8_000_000
GROUP: Final = 100
"""Phones of the group that a warning speaks of."""
LARGE_OPERATIONS: Final = 3_000
LARGE_FILE: Final = 1.15
"""Times the weights; the rest is the graph's own."""
SMALL_FILE_BYTES: Final = 400_000
"""A file below it is never too large."""
SLOW_ON_OLD: Final = 2.0
SLOW_STEP_S: Final = 1.0
MUCH_MEMORY_BYTES: Final = 200e6
ROUNDING_NOISE: Final = 1e-4
"""From here on, a step depends on the order of additions."""
LITTLE_CHANGE: Final = 500.0
"""Times the tolerance: a largest change of a weight below this would hide a wrong gradient."""


def verdict(
    facts: Facts, died: str, runtimes: Sequence[RuntimeReport], tolerance: float
) -> tuple[Verdict, RuntimeReport | None]:
    """What to say, and the interpreter that is to blame."""
    if died:
        return Verdict.CRASHED, None
    if facts.refusal:
        return Verdict.REFUSED, None
    for runtime in runtimes:
        if runtime.crashed:
            return Verdict.CRASHED, runtime
    for runtime in runtimes:
        if any(one.relative is None or one.relative > tolerance for one in runtime.largest):
            return Verdict.WRONG, runtime
    return Verdict.TRAINS, None


def reach(runtimes: Sequence[RuntimeReport]) -> Reach | None:
    """Which phones a model is for, by the quickest interpreter."""
    timings = [one.timing for one in runtimes if one.timing is not None]
    if not timings:
        return None
    quickest = min(timings, key=lambda one: one.step_ms)
    step_s, memory = PHONE_SLOWER * quickest.step_ms / 1000, quickest.peak_memory_bytes
    for found, (longest_s, most_bytes) in ((Reach.ANY, ANY_PHONE), (Reach.RECENT, RECENT_PHONE)):
        if step_s <= longest_s and memory <= most_bytes:
            return found
    return Reach.FEW


def energy(runtimes: Sequence[RuntimeReport], batch_size: int) -> Energy | None:
    """Joules for training once on 1,000 examples, by the quickest interpreter."""
    timings = [one.timing.step_ms for one in runtimes if one.timing is not None]
    if not timings:
        return None
    cpu_s = min(timings) / 1000 * (1000 / batch_size)
    joules = cpu_s * PHONE_SLOWER * CORE_WATTS
    share = joules / BATTERY_JOULES
    found = next((one for one, limit in CLASSES if share <= limit), EnergyClass.E)
    return Energy(energy_class=found, joules_per_1000_examples=joules, battery_share=share)


def carriers(minimum_runtime: str) -> tuple[tuple[str, str], ...]:
    """What brings a runtime that is new enough. The app brings it: the phone's own system does not matter."""
    return (
        ("Android", "com.google.ai.edge.litert:litert, every version"),
        ("Android", f"org.tensorflow:tensorflow-lite {minimum_runtime} or later"),
        ("iOS", f"the pod TensorFlowLiteSwift {minimum_runtime} or later"),
        ("Linux", f"ai-edge-litert, every version; tflite-runtime {minimum_runtime} or later"),
    )


def sentence(
    found: Verdict,
    blamed: RuntimeReport | None,
    facts: Facts,
    died: str,
    exportation: Exportation | None,
    runtimes: Sequence[RuntimeReport],
    tolerance: float,
) -> str:
    """The verdict for a person."""
    if found is Verdict.REFUSED:
        return f"No: it cannot be exported. {facts.refusal[:1].upper()}{facts.refusal[1:]}."
    if found is Verdict.CRASHED:
        where = f"{blamed.package} {blamed.crashed}" if blamed is not None else f"the export {died}"
        return f"No: {where}."
    if found is Verdict.WRONG and blamed is not None:
        worst = max(blamed.largest, key=lambda one: float("inf") if one.relative is None else one.relative)
        size = "is not finite" if worst.relative is None else f"is off by {worst.relative:.1e}"
        return (
            f"No: on {blamed.package}, {worst.name} after {worst.signature} {size}, "
            f"where TensorFlow's own step allows {tolerance:.0e}."
        )
    return _yes(exportation, runtimes)


def _yes(exportation: Exportation | None, runtimes: Sequence[RuntimeReport]) -> str:
    timings = [one.timing for one in runtimes if one.timing is not None]
    if exportation is None or not timings:
        return "Yes."
    quickest = min(timings, key=lambda one: one.step_ms)
    cost = (
        f"A step of {exportation.batch_size} examples takes {milliseconds(quickest.step_ms)} and "
        f"{byte_count(quickest.peak_memory_bytes)} here"
    )
    runtime = f"whose app brings LiteRT, or TFLite {exportation.minimum_runtime} or later"
    found = reach(runtimes)
    if found is Reach.ANY:
        return f"Yes: on any phone {runtime}. {cost}."
    if found is Reach.RECENT:
        return f"Yes, on recent phones with 4 GB of memory or more, {runtime}. {cost}."
    return f"Yes in principle, but hardly any phone would finish. {cost}: make it smaller, or train less of it."


def warnings(
    facts: Facts, manifest: Manifest, exportation: Exportation, runtimes: Sequence[RuntimeReport],
    steps: Sequence[Step], tolerance: float,
) -> tuple[Warned, ...]:  # fmt: skip
    """What to know before training, most serious first."""
    found: list[tuple[Concern, str] | None] = [
        _diverging(facts),
        _little_change(steps, tolerance),
        _rounding(steps),
        _indices(facts, manifest),
        *_costs(runtimes),
        _old_runtime(runtimes),
        _large_report(exportation),
        _statistics(facts, manifest),
        _large_graph(exportation),
        _large_file(exportation),
        _labels(manifest),
        _dropout(manifest),
        *_untried(runtimes),
    ]
    return tuple(Warned(concern=one[0], sentence=one[1]) for one in found if one is not None)


def _diverging(facts: Facts) -> tuple[Concern, str] | None:
    if facts.finite:
        return None
    return Concern.TENSORFLOW_DIVERGES, (
        f"TensorFlow itself ends in values that are not finite at a learning rate of {facts.learning_rate:g}; "
        "lower it with --learning-rate"
    )


def _rounding(steps: Sequence[Step]) -> tuple[Concern, str] | None:
    noise = max((float(one) for step in steps for one in step.noise.values()), default=0.0)
    if noise <= ROUNDING_NOISE:
        return None
    return Concern.ROUNDING_MATTERS, (
        f"moving weights and features by one rounding moves TensorFlow's own step by {noise:.1e}, so no more than that "
        "can be asked of an interpreter; usually BatchNormalization over few values: a larger batch or input helps"
    )


def _little_change(steps: Sequence[Step], tolerance: float) -> tuple[Concern, str] | None:
    change = max((step.change for step in steps), default=0.0)
    if change > LITTLE_CHANGE * tolerance:
        return None
    return Concern.LITTLE_CHANGE, (
        f"a step changed no weight by more than {change:.1e}, so the comparison proves little; "
        "raise --learning-rate for the check"
    )


def _indices(facts: Facts, manifest: Manifest) -> tuple[Concern, str] | None:
    short = {name: rows for name, rows in facts.table_rows.items() if rows - 1 < manifest.features.high}
    if not short:
        return None
    listed = " and ".join(f"{name} below {rows:,}" for name, rows in sorted(short.items()))
    return Concern.INDICES_UNCHECKED, (
        f"the schema allows indices up to {manifest.features.high:,.0f}, but the model's tables hold {listed}: "
        "an interpreter stops or reads elsewhere, so the app must keep larger ones out"
    )


def _costs(runtimes: Sequence[RuntimeReport]) -> list[tuple[Concern, str] | None]:
    timings = [one.timing for one in runtimes if one.timing is not None]
    if not timings:
        return []
    quickest = min(timings, key=lambda one: one.step_ms)
    memory = min(one.peak_memory_bytes for one in timings)
    found: list[tuple[Concern, str] | None] = []
    if PHONE_SLOWER * quickest.step_ms / 1000 > SLOW_STEP_S:
        found.append(
            (
                Concern.SLOW_STEP,
                (
                    f"a step takes about {PHONE_SLOWER * quickest.step_ms / 1000:.1f} s on a phone; "
                    "a smaller batch makes a step shorter, a smaller model makes training so"
                ),
            )
        )
    if memory > MUCH_MEMORY_BYTES:
        found.append(
            (
                Concern.MUCH_MEMORY,
                (
                    f"{byte_count(memory)} are more than Android leaves to work in the background on a phone of 2 GB; "
                    "a smaller batch needs less"
                ),
            )
        )
    return found


def _old_runtime(runtimes: Sequence[RuntimeReport]) -> tuple[Concern, str] | None:
    timed = {one.name: one.timing for one in runtimes if one.timing is not None}
    new, old = timed.get("litert"), timed.get("tflite")
    if new is None or old is None or old.step_ms <= SLOW_ON_OLD * new.step_ms:
        return None
    return Concern.SLOW_ON_OLD_RUNTIME, (
        f"on tflite-runtime 2.14 a step takes {old.step_ms / new.step_ms:.1f} times as long as on LiteRT; "
        "bring LiteRT with the app"
    )


def _large_report(exportation: Exportation) -> tuple[Concern, str] | None:
    if exportation.report_bytes <= LARGE_REPORT_BYTES:
        return None
    return Concern.LARGE_REPORT, (
        f"{exportation.reported_parameters:,} parameters are reported, 4 bytes each: "
        f"{byte_count(exportation.report_bytes)} up from every phone, "
        f"{byte_count(GROUP * exportation.report_bytes)} for a group of {GROUP}, and noise on every one of them; "
        "freeze layers with --trainable, or train adapters with --lora"
    )


def _statistics(facts: Facts, manifest: Manifest) -> tuple[Concern, str] | None:
    moving = any(one.trainable and one.name.endswith(("moving_mean", "moving_variance")) for one in manifest.tensors)
    if not moving or "BatchNormalization" not in facts.layers:
        return None
    return Concern.BATCH_STATISTICS, (
        "BatchNormalization keeps statistics of each phone's data: they are reported and averaged like weights, count "
        "in the clipping norm, and a padded or small batch bends them; GroupNormalization or LayerNormalization keeps "
        "none, and a frozen one changes none"
    )


def _large_graph(exportation: Exportation) -> tuple[Concern, str] | None:
    if exportation.operations <= LARGE_OPERATIONS:
        return None
    return Concern.LARGE_GRAPH, (
        f"the graph has {exportation.operations:,} operators, so opening it takes long; recurrent layers are written "
        "out position by position: shorten the sequence"
    )


def _large_file(exportation: Exportation) -> tuple[Concern, str] | None:
    size, weights = exportation.graph_bytes, exportation.weights_bytes
    if size <= max(LARGE_FILE * weights, weights + SMALL_FILE_BYTES):
        return None
    return Concern.LARGE_FILE, (
        f"the file has {byte_count(size)} for {byte_count(weights)} of weights: "
        "large constants in the model, or a large graph"
    )


def _labels(manifest: Manifest) -> tuple[Concern, str] | None:
    if manifest.labels.dtype != "int32":
        return None
    return Concern.LABELS_UNCHECKED, (
        f"labels run from {manifest.labels.low:g} to {manifest.labels.high:g}; an interpreter takes others without an "
        "error and learns nothing from them. Edgewise refuses them on the device, an app that calls the graph must"
    )


def _dropout(manifest: Manifest) -> tuple[Concern, str] | None:
    if not manifest.seeded:
        return None
    return Concern.DROPOUT_STEPS, (
        "random numbers have 2,039 steps and come from a seed that the app gives to every step: a dropout rate is met "
        "to one part in 2,039, and the same seed gives the same step"
    )


def _untried(runtimes: Sequence[RuntimeReport]) -> list[tuple[Concern, str]]:
    return [
        (Concern.RUNTIME_NOT_TRIED, f"{one.name} is not installed, so nothing is said of it")
        for one in runtimes
        if not one.package
    ]

"""The report as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edge_runtime.protocol.bundle import Operator
from model_export.check.report import Exportation, Report, RuntimeReport
from model_export.check.words import byte_count, error, milliseconds, percent

WIDTH = 100


def text(report: Report) -> str:
    """Lines of at most `WIDTH` characters."""
    parts = [_wrapped(report.sentence)]
    if report.exportation is not None:
        parts.append(_table(_facts(report, report.exportation)))
        parts.append(_table([_HEADS, *(_runtime(one) for one in report.runtimes)]))
        parts.append(_table([("signature", "largest error, relative", "of"), *_errors(report)]))
        parts.append(_wrapped("operators  " + ", ".join(f"{one.name} {one.version}" for one in _operators(report)), 11))
    parts += [_wrapped(f"{one.concern}: {one.sentence}", 2) for one in report.warnings]
    return "\n\n".join(parts)


_HEADS = ("runtime", "largest error", "step", "from", "to", "opens in", "memory")


def _facts(report: Report, found: Exportation) -> list[tuple[str, str]]:
    energy = report.energy
    rows = [
        ("model", report.model),
        ("parameters", f"{found.parameters:,}, of which {found.reported_parameters:,} are reported"),
        ("file", f"{byte_count(found.graph_bytes)}, weights alone {byte_count(found.weights_bytes)}"),
        ("report", f"{byte_count(found.report_bytes)} up from a phone"),
        ("training", f"{found.loss}, {found.optimizer}, batches of {found.batch_size}"),
        ("graph", f"{found.operations:,} operators of {len(found.operators)} kinds, all built in"),
        ("runtime", f"TFLite {found.minimum_runtime} or later"),
    ]
    if energy is not None:
        rows.append(
            (
                "energy",
                (
                    f"class {energy.energy_class}: about {energy.joules_per_1000_examples:.2g} J for 1,000 examples, "
                    f"{percent(energy.battery_share)} of a battery"
                ),
            )
        )
    return rows


def _runtime(one: RuntimeReport) -> tuple[str, ...]:
    if not one.package:
        return (one.name, "not installed", *("–",) * 5)
    if one.crashed:
        return (one.package, one.crashed, *("–",) * 5)
    worst = max((found.relative for found in one.largest if found.relative is not None), default=None)
    if any(found.relative is None for found in one.largest):
        worst = None
    timing = one.timing
    if timing is None:
        return (one.package, error(worst), *("–",) * 5)
    return (
        one.package,
        error(worst),
        milliseconds(timing.step_ms),
        milliseconds(timing.low_ms),
        milliseconds(timing.high_ms),
        milliseconds(timing.open_ms),
        byte_count(timing.peak_memory_bytes),
    )


def _errors(report: Report) -> list[tuple[str, str, str]]:
    return [
        (f"{found.signature} ({one.name})", error(found.relative), found.name)
        for one in report.runtimes
        for found in one.largest
    ]


def _operators(report: Report) -> tuple[Operator, ...]:
    return report.exportation.operators if report.exportation is not None else ()


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _wrapped(sentence: str, indent: int = 0) -> str:
    return textwrap.fill(sentence, WIDTH, subsequent_indent=" " * indent, break_long_words=False)

"""Made-up histories for the tests of what the demo writes and shows."""

from __future__ import annotations

import dataclasses

from device_sim.history import (
    Baselines,
    Claim,
    Elsewhere,
    GroupRecord,
    History,
    PhoneEvent,
    RoundRecord,
    Summary,
)


def round_record(number: int, dropouts: dict[str, int] | None = None) -> RoundRecord:
    lost = {"in-use": 4, "network-lost": 2} if dropouts is None else dropouts
    return RoundRecord(
        round=number,
        accuracy=0.9 - 0.7 / number,
        loss=0.3 + 2 / number,
        chosen=40,
        reported=40 - sum(lost.values()),
        dropouts=lost,
        stragglers=3,
        seconds=1.5,
        bytes_up=8_000_000,
        bytes_down=9_000_000,
        groups=(
            GroupRecord(members=20, reports=40 - sum(lost.values())),
            GroupRecord(members=14, reports=0, aborted="too-few-shared"),
        ),
    )


def history(rounds: int = 4) -> History:
    return History(
        dataset="digits",
        model="mlp",
        devices_training=4,
        devices_held_out=1,
        seed=7,
        initial_accuracy=0.1,
        initial_loss=2.3,
        rounds=tuple(round_record(number) for number in range(1, rounds + 1)),
        baselines=Baselines(local=(0.2, 0.3, 0.4, 0.5), local_mean=0.35, central=0.93, without_noise=0.74),
        phone=(
            PhoneEvent(at_s=0.5, what="check-in", detail=""),
            PhoneEvent(at_s=0.6, what="waiting", detail="selection-pending"),
            PhoneEvent(at_s=0.9, what="waiting", detail="selection-pending"),
            PhoneEvent(at_s=1.5, what="assigned", detail="round 1"),
            PhoneEvent(at_s=1.6, what="fetched", detail="checkpoint"),
            PhoneEvent(at_s=2.0, what="interrupted", detail="battery-low"),
        ),
        phone_name="phone-3",
        examples_by_device=((10, 0, 2), (0, 8, 0), (3, 3, 3), (0, 0, 40)),
        summing="secure",
        warnings=(),
        claim=CLAIM,
    )


CLAIM = Claim(
    mode="distributed",
    noise_multiplier=0.3,
    clipping_norm=1.0,
    survivors=15,
    corrupt=2,
    epsilon_coordinator=103.2041,
    epsilon_recipients=43.5501,
    target_delta=0.0063,
    sentences=(
        "ε = 103.205 at δ = 0.0063 against the coordinator.",
        "ε = 43.551 against the recipients.",
    ),
    elsewhere=(
        Elsewhere(members=1000, noise_multiplier=1.0, epsilon=5.496, target_delta=2.5e-7),
        Elsewhere(members=1000, noise_multiplier=8.22, epsilon=0.566, target_delta=2.5e-7),
    ),
)


def plain() -> tuple[History, Summary]:
    """The same without secure summing and without noise."""
    whole = history()
    made = dataclasses.replace(
        whole,
        summing="plain",
        warnings=("plain summing: the coordinator sees each report",),
        claim=Claim(mode="none"),
        baselines=dataclasses.replace(whole.baselines, without_noise=None),
        rounds=tuple(dataclasses.replace(one, groups=()) for one in whole.rounds),
    )
    return made, dataclasses.replace(
        summary(), privacy_mode="none", epsilon_coordinator=None, epsilon_recipients=None, target_delta=None
    )


def summary() -> Summary:
    return Summary(
        rounds=4,
        devices=4,
        reports_counted=136,
        accuracy_initial=0.1,
        accuracy_final=0.725,
        accuracy_local_mean=0.35,
        accuracy_central=0.93,
        seconds=61.25,
        bytes_up_per_report=203_592,
        final_weights_sha256="5f" * 32,
        privacy_mode="distributed",
        epsilon_coordinator=103.2041,
        epsilon_recipients=43.5501,
        target_delta=0.0063,
        accuracy_without_noise=0.74,
    )


def hostile(text: str) -> tuple[History, Summary]:
    """A history and a summary in which every text is `text`."""
    lost = GroupRecord(members=3, reports=0, aborted=text)
    made = dataclasses.replace(
        history(),
        dataset=text,
        model=text,
        phone_name=text,
        phone=tuple(PhoneEvent(at_s=at_s, what=text, detail=text) for at_s in (1.0, 2.0)),
        rounds=(dataclasses.replace(round_record(1, {text: 3}), groups=(lost,)),),
        claim=dataclasses.replace(CLAIM, sentences=(text, text)),
    )
    return made, dataclasses.replace(summary(), final_weights_sha256=text)

"""The journal's file: what it keeps, and what damage, rollback, keys and versions do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.journal import AppKey, Phase, Progress, StateFolder, open_journal
from edge_runtime.journal import state as now_is
from edge_runtime.journal.document import MIGRATIONS, decode_state
from edge_runtime.journal.sealing import SealBroken, SecretSeal, seal_of
from edge_runtime.journal.state import Restart, State
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import (
    StateDamaged,
    StepNotAllowed,
    UnsupportedVersion,
    WrongStorageKey,
)
from tests.edge_runtime.store.journals import (
    ME,
    PROGRESS,
    SEED,
    Numbers,
    another_key,
    enrolled,
    files,
    flip,
    key,
    nothing_is_left,
    put_back,
    reopened,
    training,
    why_restarted,
)
from tests.edge_runtime.store.test_participation import HERE, NOW_S, RECEIPT


@pytest.mark.parametrize("app_key", [None, key], ids=["in the clear", "sealed"])
def test_a_participation_is_taken_up_where_it_was_left(folder: StateFolder, app_key: AppKey | None) -> None:
    training(folder, app_key)
    journal = reopened(folder, app_key)
    progress = journal.progress()
    assert journal.state.identity == ME
    assert progress is not None
    assert (progress.epoch, progress.step, progress.order_seed, progress.snapshot) == (0, 2, 1, "s")
    assert progress.weights.tolist() == PROGRESS.weights.tolist()
    assert progress.slots.tolist() == PROGRESS.slots.tolist()
    journal.seal(b"report")
    assert reopened(folder, app_key).report_to_send() == b"report"
    again = reopened(folder, app_key)
    assert again.report_to_send() == b"report"
    again.update(lambda state: now_is.received(state, RECEIPT, NOW_S))
    last = reopened(folder, app_key).state
    assert last.participation is None
    assert [one.phase for one in last.ended] == [Phase.REPORTED]
    assert now_is.used(last, NOW_S).participations == 1
    assert sorted(files(folder)) == ["journal", "journal.seen", "lock"]


def test_after_a_report_there_is_no_training_and_no_other_report(folder: StateFolder) -> None:
    journal = training(folder)
    journal.seal(b"report")
    before = files(folder)
    with pytest.raises(StepNotAllowed):
        journal.save(PROGRESS)
    with pytest.raises(StepNotAllowed):
        journal.seal(b"another report")
    assert files(folder) == before


def test_without_a_report_there_is_nothing_to_send(folder: StateFolder) -> None:
    journal = training(folder)
    with pytest.raises(StepNotAllowed):
        journal.report_to_send()
    assert journal.progress() is not None


def test_a_savepoint_that_goes_back_leaves_nothing_behind(folder: StateFolder) -> None:
    journal = training(folder)
    before = files(folder)
    earlier = Progress(
        epoch=0, step=1, order_seed=1, rng=b"{}", snapshot="s", weights=PROGRESS.weights, slots=PROGRESS.slots
    )
    with pytest.raises(StepNotAllowed):
        journal.save(earlier)
    assert files(folder) == before


def test_without_a_change_nothing_is_written(folder: StateFolder) -> None:
    journal = training(folder)
    before = files(folder)
    assert journal.update(lambda state: state) is journal.state
    assert files(folder) == before


@pytest.mark.parametrize("app_key", [None, key], ids=["in the clear", "sealed"])
def test_any_changed_byte_is_found_and_answered_by_a_restart(folder: StateFolder, app_key: AppKey | None) -> None:
    training(folder, app_key)
    backup = files(folder)
    for name in ("journal", "journal.seen"):
        for position in range(0, len(backup[name]), 7):
            put_back(folder, backup, *backup)
            flip(folder.path / name, position)
            journal = reopened(folder, app_key)
            assert why_restarted(journal) is Restart.DAMAGED, f"byte {position} of {name}"
            assert nothing_is_left(journal, folder)


@pytest.mark.parametrize("name", ["journal", "journal.seen"])
@pytest.mark.parametrize("left", [None, 0, 40])
def test_a_file_that_is_gone_or_cut_is_answered_by_a_restart(folder: StateFolder, name: str, left: int | None) -> None:
    training(folder)
    whole = (folder.path / name).read_bytes()
    (folder.path / name).unlink() if left is None else (folder.path / name).write_bytes(whole[:left])
    journal = reopened(folder)
    assert why_restarted(journal) is not None
    assert nothing_is_left(journal, folder)


@pytest.mark.parametrize("changes", [1, 2, 9])
def test_an_old_journal_that_was_put_back_is_not_believed(folder: StateFolder, changes: int) -> None:
    journal = training(folder)
    backup = files(folder)
    for number in range(changes):
        off = number % 2 == 0
        journal.update(lambda state, off=off: now_is.switched(state, off=off))  # type: ignore[misc]
    put_back(folder, backup, "journal")
    restarted = reopened(folder)
    assert why_restarted(restarted) is Restart.ROLLED_BACK
    assert nothing_is_left(restarted, folder)


def test_a_journal_of_another_past_with_the_same_number_is_not_believed(folder: StateFolder) -> None:
    journal = enrolled(folder)
    backup = files(folder)
    journal.update(lambda state: now_is.switched(state, off=True))
    ours = files(folder)
    put_back(folder, backup, *backup)
    reopened(folder).update(lambda state: now_is.assigned(state, HERE, "pop", NOW_S))
    put_back(folder, ours, "journal")
    assert why_restarted(reopened(folder)) is Restart.ROLLED_BACK


def test_a_whole_folder_that_was_put_back_is_known_by_the_witness_alone(folder: StateFolder) -> None:
    witness = Numbers()
    journal = enrolled(folder, witness=witness)
    backup = files(folder)
    for off in (True, False):
        journal.update(lambda state, off=off: now_is.switched(state, off=off))  # type: ignore[misc]
    put_back(folder, backup, *backup)
    assert why_restarted(reopened(folder)) is None
    restarted = reopened(folder, witness=witness)
    assert why_restarted(restarted) is Restart.ROLLED_BACK
    assert restarted.state.identity is None


def test_a_folder_that_came_to_another_phone_is_known_by_the_empty_witness(folder: StateFolder) -> None:
    enrolled(folder, witness=Numbers())
    assert why_restarted(reopened(folder, witness=Numbers())) is Restart.ROLLED_BACK


def test_a_folder_that_was_emptied_is_known_by_the_witness(folder: StateFolder) -> None:
    witness = Numbers()
    enrolled(folder, witness=witness)
    for name in ("journal", "journal.seen"):
        (folder.path / name).unlink()
    restarted = enrolled(folder, witness=witness)
    assert why_restarted(restarted) is Restart.DAMAGED
    assert reopened(folder, witness=witness).state.identity == ME


def test_a_restarted_journal_is_believed_from_then_on(folder: StateFolder) -> None:
    training(folder)
    flip(folder.path / "journal", 60)
    first = reopened(folder)
    again = open_journal(folder, key=key, now_s=NOW_S + 60)
    assert again.state == first.state
    again.update(lambda state: now_is.enrolled(state, ME))
    assert reopened(folder).state.identity == ME


@pytest.mark.parametrize(
    ("made_with", "opened_with"), [(key, another_key), (key, None), (None, key)], ids=["other", "none", "some"]
)
def test_a_wrong_key_is_refused_and_loses_nothing(
    folder: StateFolder, made_with: AppKey | None, opened_with: AppKey | None
) -> None:
    training(folder, made_with)
    before = files(folder)
    with pytest.raises(WrongStorageKey):
        reopened(folder, opened_with)
    assert files(folder) == before
    journal = reopened(folder, made_with)
    assert journal.progress() is not None


def test_an_app_that_lost_its_key_may_start_over(folder: StateFolder) -> None:
    training(folder)
    journal = open_journal(folder, key=another_key, now_s=NOW_S, start_over=True)
    assert why_restarted(journal) is Restart.KEY_LOST
    assert nothing_is_left(journal, folder)
    assert now_is.used(now_is.installed(journal.state, NOW_S), NOW_S).last_participation_at == NOW_S


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(WrongStorageKey, match="16 bytes"):
        seal_of(lambda: bytes(16), b"")


def test_a_sealed_folder_shows_neither_seed_nor_report_nor_weights(folder: StateFolder) -> None:
    journal = training(folder)
    raw = b"".join(files(folder).values())
    assert PROGRESS.weights.tobytes() not in raw
    journal.seal(b"a report that nobody reads")
    raw = b"".join(files(folder).values())
    assert b"report" not in raw
    assert b"identity" not in raw
    assert repr(SEED) not in repr(journal.state)


def test_a_seal_opens_for_its_own_context_only() -> None:
    seal = SecretSeal(key())
    assert seal.open(seal.close(b"plain", b"here"), b"here") == b"plain"
    assert seal.close(b"plain", b"here") != seal.close(b"plain", b"here")
    for sealed in (seal.close(b"plain", b"there"), b"", bytes(5)):
        with pytest.raises(SealBroken):
            seal.open(sealed, b"here")


def test_a_later_version_is_refused_and_left_alone(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = enrolled(folder, None)
    later = State.VERSION + 1
    monkeypatch.setattr(State, "VERSION", later)
    journal.update(lambda state: State(version=later, identity=state.identity))
    monkeypatch.undo()
    before = files(folder)
    with pytest.raises(UnsupportedVersion):
        reopened(folder, None)
    assert files(folder) == before


def test_a_journal_of_an_earlier_version_is_migrated_step_by_step() -> None:
    now = wire.encode(State(switched_off=True))
    version = b'"version":%d' % State.VERSION
    older = now.replace(b'"switched_off":true', b'"turned":"off"').replace(version, b'"version":-1')

    def to_0(tree: dict[str, object]) -> dict[str, object]:
        off = tree.pop("turned") == "off"
        return {**tree, "off": off, "version": 0}

    def to_1(tree: dict[str, object]) -> dict[str, object]:
        off = tree.pop("off")
        return {**tree, "switched_off": off, "version": State.VERSION}

    assert decode_state(older, {-1: to_0, 0: to_1}) == State(switched_off=True)


def test_a_journal_of_version_1_is_taken_over_with_its_identity_and_its_participation() -> None:
    raw = (
        b'{"asking":null,"ended":[],"identity":{"device_id":"%s","known":true,"seed":"%s","tenant":"acme"},'
        b'"opted_out":false,"participation":{"assigned_at_s":1.0,"battery_share":0.0,"checkpoint_sha256":"%s",'
        b'"deadline_at_s":9.0,"outcome":null,"participation":"%s","phase":"assigned","plan":"cGxhbg==",'
        b'"plan_signature":"","population":"p","report":null,"report_sha256":null,"round":3,"savepoint":null,'
        b'"seconds":0.0,"transferred_bytes":0},"personal":null,"policy":null,"release":null,'
        b'"release_asked_at_s":null,"release_wanted":false,"restarted":null,"switched_off":false,"usage":null,'
        b'"version":1,"visits":[]}'
    ) % (b"a" * 32, base64.b64encode(bytes(32)), b"0" * 64, b"b" * 32)
    state = decode_state(raw)
    assert state.version == State.VERSION
    assert state.identity is not None
    assert state.participation is not None
    assert (state.identity.certificate, state.participation.grouping, state.participation.round) == (b"", None, 3)
    assert (
        decode_state(raw.replace(b'"identity":{', b'"identity":null,"x":{', 1).split(b',"x"')[0] + _NOBODY).identity
        is None
    )


_NOBODY = (
    b',"opted_out":false,"participation":null,"personal":null,"policy":null,"release":null,"release_asked_at_s":null,'
    b'"release_wanted":false,"restarted":null,"switched_off":false,"usage":null,"version":1,"visits":[]}'
)


def test_a_journal_of_version_2_has_given_nothing_under_plans_with_limits() -> None:
    now = json.loads(wire.encode(now_is.assigned(State(), HERE, "p", 1.0)))
    assert now.pop("taken") == []
    assert now["participation"].pop("counted_as") is None
    state = decode_state(json.dumps({**now, "version": 2}).encode())
    assert (state.version, state.taken) == (State.VERSION, ())
    assert state.participation is not None
    assert state.participation.counted_as is None


def test_each_earlier_version_has_a_migration() -> None:
    assert sorted(MIGRATIONS) == list(range(1, State.VERSION))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"version":1}'])
def test_what_is_no_state_is_damage(text: bytes) -> None:
    with pytest.raises(StateDamaged):
        decode_state(text)


def test_a_damaged_savepoint_begins_training_anew(folder: StateFolder) -> None:
    training(folder)
    (stored,) = folder.path.glob("stored-*")
    flip(stored, 20)
    journal = reopened(folder)
    assert journal.progress() is None
    held = journal.state.participation
    assert held is not None
    assert held.phase is Phase.ASSIGNED
    journal.save(PROGRESS)
    assert journal.progress() is not None


@pytest.mark.parametrize("damage", [lambda path: flip(path, 20), Path.unlink], ids=["changed", "gone"])
def test_a_damaged_report_is_not_sent_and_not_trained_again(
    folder: StateFolder, damage: Callable[[Path], None]
) -> None:
    training(folder).seal(b"report")
    (stored,) = folder.path.glob("stored-*")
    damage(stored)
    journal = reopened(folder)
    with pytest.raises(StateDamaged):
        journal.report_to_send()
    with pytest.raises(StepNotAllowed):
        journal.save(PROGRESS)
    assert journal.state.participation is not None
    journal.update(lambda state: now_is.expired(state, NOW_S + 600))
    assert not list(folder.path.glob("stored-*"))


@pytest.mark.parametrize("key", [None, lambda: bytes(32)])
@pytest.mark.parametrize("parts", [(b"",), (b"ab", b""), (b"abc" * 7, b"d" * 100_003)])
def test_what_is_sealed_in_parts_is_opened_as_one_and_every_changed_byte_is_found(
    key: AppKey | None, parts: tuple[bytes, ...]
) -> None:
    seal = seal_of(key, b"test")
    sealed = bytes(seal.close_large([memoryview(part) for part in parts], b"context"))
    assert len(sealed) == seal.overhead_bytes + sum(map(len, parts))
    assert seal.open(sealed, b"context") == b"".join(parts)
    for wrong in (0, len(sealed) // 2, len(sealed) - 1):
        with pytest.raises(SealBroken):
            seal.open(sealed[:wrong] + bytes([sealed[wrong] ^ 1]) + sealed[wrong + 1 :], b"context")
    with pytest.raises(SealBroken):
        seal.open(sealed, b"another")

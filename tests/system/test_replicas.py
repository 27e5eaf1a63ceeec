"""Two processes of the API and two workers on one PostgreSQL: whatever dies, what was acknowledged is counted once."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlmodel import func, select

from coordinator.store.database import Database
from coordinator.store.tables import Candidate
from tests.postgres import OwnServer, own_server
from tests.programme import COORDINATOR_KEY
from tests.s3 import KEYS, serving
from tests.system.replicas import HOLD_S, LIMIT_S, PHONES, Cluster, Fleet, check, disturbed, restart_of, running


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


def wait_for_candidates(url: str, count: int) -> None:
    """Look at the database until so many phones are candidates; they are being held then."""
    database = Database(url, connections=1)
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        with database.reading() as session:
            if session.exec(select(func.count()).select_from(Candidate)).one() == count:
                break
        time.sleep(0.05)  # for real processes
    else:
        pytest.fail("the phones never became candidates")
    database.close()


@pytest.fixture(scope="module")
def cluster(postgres: OwnServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("replicas") / "home", postgres) as found:
        yield found


def test_a_replica_that_is_asked_to_stop_answers_whoever_waits_and_a_worker_wakes_those_of_the_other(
    cluster: Cluster,
) -> None:
    cluster.start_task("drained", 1)
    fleet = Fleet([api.address for api in cluster.apis])
    with ThreadPoolExecutor(PHONES) as threads:
        phones = [threads.submit(fleet.run, number) for number in range(PHONES - 1)]
        wait_for_candidates(cluster.url, PHONES - 1)
        assert cluster.apis[1].stop() == 0
        last_came = time.monotonic()
        phones.append(threads.submit(fleet.run, PHONES - 1))
        for phone in phones:
            phone.result()
    waited_s = max(fleet.trained_at.values()) - last_came
    assert waited_s < HOLD_S / 2, "the worker is another process"
    check(cluster.home(), fleet, "drained", 1)
    assert "Traceback" not in cluster.apis[1].said()
    cluster.apis[1].start()


def test_an_api_a_worker_and_the_database_die_in_mid_round_and_nothing_is_lost_or_counted_twice(
    cluster: Cluster,
) -> None:
    """A report is on its way at each of them; the worker that is left goes on with what the other one held."""
    happenings = {
        3: cluster.apis[0].replace,
        PHONES + 2: cluster.workers[0].kill,
        3 * PHONES + 2: restart_of(cluster.postgres),
    }
    disturbed(cluster, "killed", 2, happenings)
    said = "".join(one.said() for one in (*cluster.apis, *cluster.workers))
    assert COORDINATOR_KEY.raw.hex() not in said
    assert cluster.workers[1].stop() == 0


def test_replicas_share_a_bucket(tmp_path: Path, postgres: OwnServer) -> None:
    with serving() as s3:
        urllib.request.urlopen(urllib.request.Request(f"{s3}/blobs", method="PUT")).close()
        settings = {**KEYS, "AWS_ENDPOINT_URL": s3, "EDGEWISE_BLOB_URL": "s3://blobs/of/replicas"}
        with running(tmp_path / "home", postgres, 1, **settings) as cluster:
            disturbed(cluster, "on-s3", 1, {})
        assert not (tmp_path / "home" / "blobs").exists()

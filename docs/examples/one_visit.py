"""Enrol a device and make one visit: check in and, when chosen, train on local examples and report."""

import secrets
import sys
from pathlib import Path

import numpy as np

from edge_runtime import (
    Driver,
    Examples,
    Installation,
    Offer,
    TrustRoots,
    enrol,
    http_client,
    open_model,
    over_http,
    private_report,
    train,
    visit,
)
from edge_runtime.driver import time_limit
from edge_runtime.identity import load_identity
from edge_runtime.interpreters import runtime_name
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.session.visit import Work
from edge_runtime.training import Interrupted

COORDINATOR, TENANT, POPULATION = "http://127.0.0.1:8470", "acme", "digits"
# Compiled into a real app; here they come from the command line.
ROOTS = TrustRoots(
    tenant=PublicKey(bytes.fromhex(sys.argv[1])),
    coordinator=PublicKey(bytes.fromhex(sys.argv[2])),
)
rng = np.random.default_rng()
# What the app has learnt from its owner; made up here. The manifest says which shape, dtype and range fit.
examples = Examples(x=rng.random((40, 28, 28, 1), np.float32), y=rng.integers(0, 10, 40).astype(np.int32))


def run_plan(work: Work) -> bytes | Outcome:
    """Train and make the report. Plan, bundle and checkpoint were verified before this is called."""
    stop = time_limit(work.plan.time_limit_s)  # ask battery, power and network here too
    try:
        trained = train(open_model(work.bundle), work.checkpoint.weights, work.plan, examples, rng, stop=stop)
    except Interrupted as interrupted:
        return interrupted.outcome
    return private_report(work.participation, trained.delta, work.plan, rng)


key = load_identity(Path("device-state"))
with http_client(COORDINATOR) as client:
    driver = Driver(key=key, tenant=TENANT, send=over_http(client))
    driver.run(enrol(Installation(TENANT, POPULATION, "my-app", "1.0", sys.platform), key.public))
    offer = Offer(
        tenant=TENANT,
        population=POPULATION,
        visit=secrets.token_hex(16),
        runtime=runtime_name(),
        examples=len(examples),
    )
    end = driver.run(visit(offer, ROOTS, {}, run_plan))
again_s = end.after_s + end.spread_s * secrets.SystemRandom().random()
sys.stdout.write(f"{end.reason}; come back in {again_s:.0f} s\n")

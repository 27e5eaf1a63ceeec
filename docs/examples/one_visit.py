"""One device: examples go into its store, and slices of work run until a report was sent."""

import sys
import time
from pathlib import Path

import numpy as np

from edge_runtime import (
    Collection,
    Conditions,
    Examples,
    Floors,
    Happened,
    Installation,
    Network,
    Policy,
    PublicKey,
    Runtime,
    Schema,
    TrustRoots,
)
from edge_runtime.conditions.linux import LinuxSource
from edge_runtime.protocol.policy import Thermal

# Compiled into a real app; here they come from the command line.
ROOTS = TrustRoots(
    tenant=PublicKey(bytes.fromhex(sys.argv[1])),
    coordinator=PublicKey(bytes.fromhex(sys.argv[2])),
)
STATE = Path("device-state")
# The loosest policy that this app accepts: for a first look, on a machine that somebody uses.
FLOORS = Floors(
    limits=Policy(needs_idle=False, first_run_delay_s=0.0, min_interval_s=1.0),
    assumed=Conditions(metered=False, thermal=Thermal.NONE, power_saver=False, charging=True),
)
DIGITS = Collection(
    name="digits",
    features=Schema(shape=(28, 28, 1), dtype="float32", low=0.0, high=1.0),
    labels=Schema(shape=(), dtype="int32", low=0, high=9),
    max_rows=1000,
    max_bytes=10_000_000,
    time_to_live_s=30 * 86_400.0,
    dedupe=True,
)


def app_key() -> bytes:
    """A real app takes 32 secret bytes from the system's key store."""
    return bytes(32)


rng = np.random.default_rng()
with Runtime(
    STATE,
    Network(coordinator="http://127.0.0.1:8470"),
    Installation("acme", "digits", "my-app", "1.0", sys.platform),
    ROOTS,
    source=LinuxSource(STATE),
    key=app_key,
    floors=FLOORS,
    log=lambda sentence: sys.stderr.write(sentence + "\n"),
) as runtime:
    runtime.declare(DIGITS)
    # What the app has learnt from its owner; made up here.
    runtime.add("digits", Examples(rng.random((40, 28, 28, 1), np.float32), rng.integers(0, 10, 40, np.int32)))
    end = runtime.run_slice(deadline_s=585.0)
    while end.happened is Happened.WAITING and end.come_back_s < 60:
        time.sleep(end.come_back_s)
        end = runtime.run_slice(deadline_s=585.0)
sys.stdout.write(f"{end.happened}: {end.reason}; come back in {end.come_back_s:.0f} s\n")

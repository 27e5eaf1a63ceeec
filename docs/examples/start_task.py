"""Bring a model to a coordinator, sign a plan as the tenant, and start a task with it."""

import base64
import sys
from pathlib import Path

import httpx

from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing, sign_plan

tenant_key = SigningKey(bytes.fromhex(Path("tenant.key").read_text().strip()))
token = Path("edgewise-data/operator.token").read_text()
bundle = Path("model/bundle.ewb").read_bytes()
bundle_sha256 = digest(bundle).hex()

plan = Plan(
    version=4,
    tenant="acme",
    population="digits",
    bundle_sha256=bundle_sha256,
    epochs=5,
    batch_size=10,
    learning_rate=0.3,
    proximal_mu=0.0,
    clipping_norm=4.0,
    lane_bits=24,
    expected_participants=7,
    max_participants=8,
    goal=6,
    min_reports=5,
    close=Close.ALL_RESOLVED,
    summing=Summing.SECURE,
    fewest_members=5,
    survivors=5,
    privacy=Privacy.NONE,
    min_examples=8,
    time_limit_s=600.0,
)
raw, signature = sign_plan(plan, tenant_key)

with httpx.Client(base_url="http://127.0.0.1:8470", headers={"authorization": f"Bearer {token}"}) as operator:
    operator.put("/v1/operator/populations/digits").raise_for_status()
    operator.put(f"/v1/operator/bundles/{bundle_sha256}", content=bundle).raise_for_status()
    first = operator.post(
        f"/v1/operator/bundles/{bundle_sha256}/checkpoints", content=Path("model/checkpoint.ewc").read_bytes()
    ).raise_for_status()
    order = {
        "name": "digits-1",
        "plan": base64.b64encode(raw).decode(),
        "plan_signature": base64.b64encode(signature).decode(),
        "checkpoint_sha256": first.json()["sha256"],
        "settings": {
            "stop": {"rounds": 2},
            "pool_size": 8,
            "selecting_deadline_s": 60,
            "reporting_deadline_s": 60,
            "retry_rejected_s": 5,
            "retry_reported_s": 5,
        },
    }
    operator.post("/v1/operator/tasks", json=order).raise_for_status()
    operator.post("/v1/operator/tasks/digits-1/approve").raise_for_status()
    task = operator.post("/v1/operator/tasks/digits-1/start").raise_for_status()
sys.stdout.write(task.text + "\n")

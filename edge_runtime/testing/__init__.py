"""For an app's own unit tests: a coordinator in the same process, and a model that needs no interpreter.

The coordinator is a transport: it speaks the real protocol, checks every signature, and answers as it is told. Nothing
here belongs into an app.
"""

from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.testing.coordinator import COORDINATOR_KEY, ROOTS, TENANT_KEY, FakeCoordinator
from edge_runtime.testing.linear import GRAPH, Linear, LinearEngine, linear_manifest

__all__ = [
    "COORDINATOR_KEY",
    "GRAPH",
    "ROOTS",
    "TENANT_KEY",
    "FakeCoordinator",
    "Linear",
    "LinearEngine",
    "Outcome",
    "Policy",
    "Wait",
    "linear_manifest",
]

"""Operators of TensorFlow, written with built-in operators of TFLite, forwards and backwards.

One file for each family of operators. A rule emits an operator and knows its gradient; `lowering` emits a whole traced
function by the rules. TensorFlow's own gradients of many operators need operators that only exist in Flex.
"""

from model_export.gradients.lowering import RULES, Emission, added_up
from model_export.gradients.trace import Trace

__all__ = ["RULES", "Emission", "Trace", "added_up"]

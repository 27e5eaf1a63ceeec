"""What privacy costs: every figure against an oracle that was written apart."""

"""Fleets of simulated phones on the real wire protocol."""

"""Decisions as functions from values to values: no clock, no storage, no network, no framework."""

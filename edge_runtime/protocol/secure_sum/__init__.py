"""Sums over a group of which nobody, the coordinator included, sees one report.

From the bottom up: `field` and `shamir`, `masks`, `lanes`; `thresholds`, `graph` and `members`; `transcript` and
`roster`, what a group agrees on; `messages`, what travels; `participant`, the device's side of each step, and
`opening`, the coordinator's. Everything is pure: keys, randomness and messages come in, values and messages go out.
"""

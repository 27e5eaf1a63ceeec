"""Sums over a group: the lanes every report is made of."""

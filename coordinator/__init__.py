"""Samples devices, adds up their changes, accounts for every round and releases better models."""

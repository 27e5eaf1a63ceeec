"""Locust swarms that speak the device protocol, with a verdict."""

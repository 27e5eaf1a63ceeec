"""The parts of `edgewise-device`: a whole device in one command, for boards and machines that run Linux.

An app that bundles the runtime needs nothing of it.
"""

"""What travels between a device and the coordinator. Both ends import this package; it imports neither.

It loads the standard library, numpy and cryptography, and nothing more.
"""

"""The audit: its bound is a bound, and it finds what is planted."""

"""Empirical lower bounds on ε: how much of a claim an attacker can disprove.

| file | what it says |
|---|---|
| `bound` | the one-run lower bound on ε, with its confidence |
| `estimate` | what ε would be if the scores were Gaussian: sharper, and no bound |
| `attacks` | from what was released to a score and a guess for each canary |
| `mechanisms` | the noise law of every mode, with bugs that can be planted |
"""

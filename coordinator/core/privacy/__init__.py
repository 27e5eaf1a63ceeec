"""What privacy costs: pure arithmetic, no storage, no framework.

| file | what it says |
|---|---|
| `conversions` | ρ or a Rényi curve as (ε, δ), and back |
| `gaussian` | the exact (ε, δ) curve of Gaussian noise |
| `events`, `zcdp`, `rdp` | what was released, and the accountants that add it up |
| `opinions` | a claim beside its second opinion, and when it is refused |
| `distributed` | discrete Gaussians of many devices under secure summing |
| `skellam` | what Skellam noise would cost |
| `correlated`, `blt` | noise by matrix factorisation |
| `clipping` | adaptive clipping |
| `participation` | how often one device may be in, and what that multiplies |
| `statement` | a figure, with everything that must stand beside it |
| `ledger`, `chain` | budgets, reservations, charges; entries that cannot be edited unseen |
| `planner`, `wishes` | choosing a mode and its noise, in words; what noise it takes and costs, in numbers |
| `settings` | settings that are refused |
"""

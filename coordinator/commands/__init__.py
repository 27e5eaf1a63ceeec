"""The commands of `edgewise-coordinator`, one family a file; `coordinator.cli` puts them together.

Some work on the coordinator's own machine, on its settings, database and key: `init`, `serve`, `worker`, `migrate`,
`doctor`, `keys`, `tenants`. The others are calls of the operator API, and work from anywhere: `populations`, `cohorts`,
`tasks`, `devices`, `releases`.
"""

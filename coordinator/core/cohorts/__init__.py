"""Cohorts: a rule says which devices of a population a task addresses.

A rule is a value (`rule`), read from JSON and written to it in one way (`reading`), held against what the population
declares (`declarations`), and evaluated for one device (`evaluation`) or for all of them by the database
(`coordinator.store.cohort_sql`), with the same result.

Logic has two values. A comparison with something that a device does not say is false; so its `not` is true.
"""

"""One file an engine: `build(workload, steps, head)` returns a call that gives (value, dP)."""

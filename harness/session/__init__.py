"""Here, where pytest or a command runs: the matrix, the plan, the client of the probe, the records. No torch."""

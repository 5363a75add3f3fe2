"""Procedures beside the benchmarks that ask a session or a probe: `plumbline fastest`, `compression`, `overhead` and others."""

"""Rules held against random instances: over exact rationals, in DuckDB, by torch, and as run."""

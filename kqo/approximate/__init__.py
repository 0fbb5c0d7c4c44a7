"""Approximate answers: drill-down, profiles, refinement, and how good they are."""

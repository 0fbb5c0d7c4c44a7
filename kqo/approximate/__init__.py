"""Approximate answers: heatmaps that refine."""

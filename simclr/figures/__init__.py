"""Figures of what a run has learned."""

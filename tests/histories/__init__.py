"""Histories of real runs, and how they are recorded and replayed."""

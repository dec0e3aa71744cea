"""Backups, restore, pruning and backup jobs."""

"""Expressions in declared workflows: a bounded Jinja sandbox."""

"""Executes the decisions of the state machine: commits states, sends messages."""

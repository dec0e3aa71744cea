"""Carries out what the state machine decides: commits states, sends their messages."""

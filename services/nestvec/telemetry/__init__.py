"""Logging and metrics behind one small face: events and counters, each with the tier on it."""

"""Keeping one collection in line with another: a copier that follows a log, and migrations."""

"""Puts the applications of nestvec together: one process, or many."""

"""Replicas as one: who is asked, when another is asked too, and what several answers mean."""

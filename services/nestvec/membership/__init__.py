"""Belonging to a cluster: the lease that a process holds, and the view of who else is there."""

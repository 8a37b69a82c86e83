"""What one region does for another: searching beside its store, and telling of its log."""

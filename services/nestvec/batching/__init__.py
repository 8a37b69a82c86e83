"""Concurrent calls of a model share its batches: the encoder's, and the cross-encoder's."""

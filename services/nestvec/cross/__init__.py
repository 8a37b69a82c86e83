"""The cross-encoder application: a query and documents' texts in, a score for each text out."""

"""The ingest application: documents to the store, the log, and every coarse tier."""

"""The admin application: collections made, described and dropped."""

"""The encoder application: text in, full unit vectors of one space out."""

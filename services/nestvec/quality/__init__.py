"""Golden sets, recall per tier, and what a model's prefixes are worth."""

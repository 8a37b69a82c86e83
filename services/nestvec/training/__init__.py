"""Making a model serve tiers: training one, or adapting one that has none (extra `train`).

Stands on core. What needs torch or sentence-transformers imports it where it is used.
"""

"""The coarse application: short prefixes of one shard, searched wide."""

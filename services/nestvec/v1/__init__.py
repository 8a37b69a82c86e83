"""Generated from protos/nestvec/v1 by `make protos`; never edited."""

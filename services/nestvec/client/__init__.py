"""The public SDK, sync and async, over the public gRPC API."""

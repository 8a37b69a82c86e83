"""gRPC: messages to core types and back, errors to statuses and back, server and clients."""

"""Who may call, and what for: TLS, tokens, grants and quotas, in front of every RPC of a server."""

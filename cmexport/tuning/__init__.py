"""Which levels to sample at: a search by picture quality, and what K steps cost and bring."""

"""What requests have in the memory of the host: inputs that are encoded, caches, and rows that share a step."""

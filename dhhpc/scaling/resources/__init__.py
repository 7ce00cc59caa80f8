"""What to ask a machine for: ranks, nodes, memory, time."""

"""Training: the loop, its settings and checkpoints, the executions, and the three tasks."""

"""One training loop for every stage, with its losses, pretext tasks and checkpoints."""

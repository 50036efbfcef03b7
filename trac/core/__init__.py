"""The training core: one update, the layers of the network on the processor, the loop, checkpoints, a finished run."""

"""Many runs: sweeps over a grid of settings, and the paper's own experiment."""

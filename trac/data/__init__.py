"""From names to data: the tasks, logged trajectories in and out of files, DSRL's files and filters."""

"""Loading weights beside what the medium gives at most and beside other loaders."""

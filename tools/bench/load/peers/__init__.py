"""Other loaders: each reads a job from stdin, loads the files, prints its seconds. Some need another interpreter."""

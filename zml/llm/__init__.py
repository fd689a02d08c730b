"""The generation engine: a checkpoint becomes text. Command-line tools and servers stand on this package."""

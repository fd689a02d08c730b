"""The error of this room."""

from zml.errors import ZmlError


class ShardingError(ZmlError):
    """A mesh, a strategy, a shape or a placement that do not fit each other."""

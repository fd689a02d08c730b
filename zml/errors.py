"""The errors a user of zml can meet. Each message says what was given, what was expected, where, and how to mend it."""


class ZmlError(Exception):
    """Base of all errors that are the input's or the machine's fault, not the program's.

    A command-line tool prints the message alone (no traceback) and exits with `exit_code`.
    """

    exit_code = 1


class UsageError(ZmlError):
    """A flag or an argument is wrong or contradicts another one."""

    exit_code = 2


class CheckpointError(ZmlError):
    """A checkpoint folder, or one of its files, is missing, damaged or not what it claims to be."""


class ConfigError(CheckpointError):
    """config.json asks for something that the model does not have, or does not understand."""


class UnsupportedError(ZmlError):
    """The request is well formed, but this build or this machine cannot serve it."""


class ReadError(ZmlError):
    """Bytes that cannot be read: a disk, a connection or a server that fails, a file that changed or is cut short."""


class NotFoundError(ReadError):
    """There is no file, folder, bucket, repository or revision of that name."""


class AccessError(ReadError):
    """It is there, or may be, but these credentials (or none) do not reach it."""


class CorruptedError(ReadError):
    """The bytes that came are not those whose checksum the source gives."""


class CancelledError(ZmlError):
    """Reading was cancelled by the program itself."""


class NumericalError(ZmlError):
    """The model's arithmetic left the numbers: its logits are NaN or infinite."""


class ShapeError(ZmlError):
    """Dims, tags, element types or partitioning that do not fit what is asked of a tagged value."""


class ShardingError(ZmlError):
    """A mesh, a strategy, a shape or a placement that do not fit each other, or a sharding of another platform."""


class BufferError(ZmlError):
    """A buffer that was donated, is of another platform, or does not fit the program it is given to."""


class CompileError(ZmlError):
    """A program that could not be lowered or compiled."""

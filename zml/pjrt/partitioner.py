"""Which of XLA's partitioners a program is lowered for."""

from contextlib import AbstractContextManager

from jax._src import config


def shardy(enabled: bool) -> AbstractContextManager[None]:
    """Lowers and compiles for Shardy, or else for GSPMD, within the context and in this thread only.

    jax.config's public switch is one for the whole process; this is the same setting.
    """
    context: AbstractContextManager[None] = config.use_shardy_partitioner(enabled)
    return context

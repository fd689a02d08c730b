"""Writes `__pycache__` for every module below a folder, the same bytes on every machine.

The bytecode is of the unchecked kind: it is used without looking at the source's time, which an
unpacked archive or a copy of it need not keep. The interpreter puts the real path of a module into
its code when it loads it, so the path recorded here is relative.
"""

import py_compile
import sys
import warnings
from pathlib import Path


def precompile(folder: Path) -> None:
    """Compile all modules below `folder`; one that is no Python (a template) is left alone."""
    for source in sorted(folder.rglob("*.py")):
        try:
            py_compile.compile(
                str(source),
                dfile=source.relative_to(folder).as_posix(),
                doraise=True,
                quiet=1,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except py_compile.PyCompileError:
            continue


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # about other people's code
    precompile(Path(sys.argv[1]))

"""`python -m tools.compile`; see main.py."""

import sys

from tools.compile.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))

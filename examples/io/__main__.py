"""`python -m examples.io`, without Bazel."""

import sys

from examples.io.main import main

sys.exit(main(sys.argv))

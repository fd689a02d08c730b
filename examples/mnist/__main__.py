"""`python -m examples.mnist`, without Bazel."""

import sys

from examples.mnist.main import main

sys.exit(main(sys.argv))

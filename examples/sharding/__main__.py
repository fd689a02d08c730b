"""`python -m examples.sharding`, without Bazel."""

import sys

from examples.sharding.main import main

sys.exit(main(sys.argv))

"""`python -m tools.bench.kernels`, without Bazel."""

import sys

from tools.bench.kernels.main import main

sys.exit(main())

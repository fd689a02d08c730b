"""`python -m tools.bench.load`."""

import sys

from tools.bench.load.main import main

sys.exit(main())

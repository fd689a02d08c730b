"""Prints what bootstrap_test asks about."""

import json
import os
import sys

print(
    json.dumps(
        {
            "argv": sys.argv[1:],
            "file": __file__,
            "path": sys.path,
            "runfiles": os.environ["RUNFILES_DIR"],
        }
    )
)

"""Starts cli.py as a part of its package, whatever repository it lies in."""

import runpy

if __name__ == "__main__":
    runpy.run_module("oci.private.cli", run_name="__main__", alter_sys=True)

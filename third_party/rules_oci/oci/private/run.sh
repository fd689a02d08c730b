#!/bin/sh
# Calls the program among the runfiles with the arguments of the target, and those of the command line after them.
script=$0
case $script in /*) ;; *) script=$PWD/$script ;; esac
for runfiles in "$script.runfiles" "${script%.runfiles/*}.runfiles" "${RUNFILES_DIR-}"; do
  [ -e "$runfiles/%tool%" ] && break
done
if [ ! -e "$runfiles/%tool%" ]; then
  echo "$0: no runfiles: expected %tool% in $script.runfiles or in RUNFILES_DIR; start this with bazel run" >&2
  exit 1
fi
export RUNFILES_DIR="$runfiles"
folder=${BUILD_WORKING_DIRECTORY:-$PWD}
cd "$folder" || exit 1
exec "$runfiles/%tool%" %arguments% "$@"

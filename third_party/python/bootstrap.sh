#!/bin/sh
# %target%: finds the runfiles and runs the program with the interpreter among them. Bazel's own stub needs a Python on
# the host for this.
main='%main%'
python='%python_binary%'

script=$0
case $script in */*) ;; *) script=$(command -v -- "$script") ;; esac
case $script in /*) ;; *) script=$PWD/$script ;; esac
while :; do
  for runfiles in "$script.runfiles" "${script%.runfiles/*}.runfiles" "${RUNFILES_DIR-}"; do
    [ -e "$runfiles/$main" ] && break 2
  done
  if [ ! -L "$script" ]; then
    echo "$0: no runfiles: expected $main in $script.runfiles, in a runfiles folder around it or in RUNFILES_DIR" >&2
    exit 1
  fi
  link=$(readlink "$script")
  case $link in /*) script=$link ;; *) script=${script%/*}/$link ;; esac
done
export RUNFILES_DIR="$runfiles"

# Children started with sys.executable see the same modules.
PYTHONPATH=$runfiles/%workspace_name%
imports='%imports%'
IFS=:
for entry in $imports; do
  PYTHONPATH=$PYTHONPATH:$runfiles/$entry
done
unset IFS
export PYTHONPATH

case $python in /*) ;; *) python=$runfiles/$python ;; esac
# -P: not the folder of the program itself, which is reached through a link and lies in the source tree.
exec "$python" -s -P "$runfiles/$main" "$@"

#!/bin/sh
# Runs the interpreter beside this file with the C library beside it, wherever the tree lies. An ELF file can name its
# loader by absolute path only; naming it here instead keeps the tree relocatable and its bytes the same everywhere.
self=$0
case $self in
  /*) ;;
  */*) self=$(cd "${self%/*}" && pwd)/${self##*/} ;;
  *) self=$(command -v -- "$self") ;;
esac
usr=${self%/*/*}
if [ -e "$usr/lib/python3.13/os.py" ]; then
  # Without this the interpreter would follow the links of a runfiles tree to files that the build did not declare.
  # sitecustomize.py removes it again, so that another Python started from here is not misled.
  export PYTHONHOME="$usr"
else # a link elsewhere, such as a virtual environment's
  usr=$(readlink -f "$self")
  usr=${usr%/*/*}
  unset PYTHONHOME
fi
lib=$usr/lib/%gnu%
exec "$lib/%loader%" --argv0 "$self" --library-path "$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$usr/bin/python3.13" -s "$@"

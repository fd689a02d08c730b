#!/bin/sh
# Lets zig build the runtime of a target, by linking an empty program for it, and takes the parts out of zig's cache.
#
# usage: runtime.sh ZIG LIB TARGET OUT
set -eu
zig=$1 target=$3 out=$4

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Relative to the execution root, so that no path of this machine is compiled in.
export ZIG_LIB_DIR="$2" ZIG_GLOBAL_CACHE_DIR="$work/cache" ZIG_LOCAL_CACHE_DIR="$work/cache"

echo 'int main() { return 0; }' > "$work/main.cc"
# Optimized and without debug information (which would name $work); for position-independent executables, as the toolchain links them.
"$zig" c++ -target "$target" -O2 -s -fPIE -pie -o "$work/main" "$work/main.cc"

mkdir -p "$out"
for file in "$work"/cache/o/*/lib*.a "$work"/cache/o/*/lib*.so.* "$work"/cache/o/*/*crt1.o; do
  [ -e "$file" ] || continue # a pattern that this target has nothing for
  name=${file##*/}
  case $name in
    *.so.*) name=${name%.so.*}.so ;; # the name that -l looks for; the version is in its soname
  esac
  cp "$file" "$out/$name"
done
for library in libc++.a libc++abi.a libcompiler_rt.a; do
  [ -s "$out/$library" ] || { echo "runtime.sh: zig built no $library for $target" >&2; exit 1; }
done

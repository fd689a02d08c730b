#!/bin/sh
# Lets zig build the runtime of a target, by linking an empty program for it, and takes the parts out of zig's cache.
#
# usage: runtime.sh ZIG LIB TARGET OUT
set -eu
target=$3 out=$PWD/$4

# zig works in a folder of its own, on relative paths: paths end up in the archives, and must not tell where they were made.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$PWD/$1" "$work/zig"
ln -s "$PWD/$2" "$work/lib"
cd "$work"
export ZIG_LIB_DIR=lib ZIG_GLOBAL_CACHE_DIR=cache ZIG_LOCAL_CACHE_DIR=cache

echo 'int main() { return 0; }' >main.cc
# Optimized, without debug information, and for position-independent executables as the toolchain links them.
./zig c++ -target "$target" -O2 -s -fPIE -pie -o main main.cc

mkdir -p "$out"
for file in cache/o/*/lib*.a cache/o/*/lib*.so.* cache/o/*/*crt1.o; do
  [ -e "$file" ] || continue # a pattern that this target has nothing for
  name=${file##*/}
  case $name in
    *.so.*) name=${name%.so.*}.so ;; # the name that -l looks for; the version is in its soname
  esac
  cp "$file" "$out/$name"
done

for library in libc++.a libc++abi.a libcompiler_rt.a; do
  [ -s "$out/$library" ] || {
    echo "runtime.sh: zig built no $library for $target" >&2
    exit 1
  }
done

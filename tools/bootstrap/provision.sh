#!/usr/bin/env bash
# provision.sh TREES: makes a folder in TREES that holds a Bazel from Debian's packages, and runs from there.
#
# Needs bash, coreutils, tar, awk, util-linux, dpkg and apt, which every Debian has; no root; touches nothing outside
# TREES. One process at a time works in TREES, under a lock that dies with it. The tree's launcher is written last, in
# one step, after Bazel and its Java were seen to run: a tree without it is never used, and the next call removes it.
set -uo pipefail
shopt -s nullglob
export LC_ALL=C.UTF-8
unset LANGUAGE # apt's words are read below

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd -P)
# shellcheck source=say.sh
. "$here/say.sh"
# shellcheck source=apt.sh
. "$here/apt.sh"
# shellcheck source=tree.sh
. "$here/tree.sh"
trees=$1
work=$trees/work.$$
log=$work/log

# listed WORD: the values of packages.txt under WORD, one a line.
listed() { awk -v word="$1" '$1 == word { print $2 }' "$here/packages.txt"; }

disk_full() { grep -qiE 'no space left on device|enough free space|quota exceeded' "$log" 2>/dev/null; }

# fail STEP MEND: ends with what the step's tools said, or with the plain cause if it is a full disk.
fail() {
  local said
  said=$(grep -hE '^(E|W|Err):' "$log" 2>/dev/null | tail -n 8)
  said=${said:-$(tail -n 8 "$log" 2>/dev/null)}
  if disk_full; then
    die "the disk is full: cannot $1" "$trees on $(df -Pm "$trees" | awk 'NR == 2 { print $1 " with " $4 " MB free" }')" \
      "room for about 600 MB" "free space there, or set XDG_CACHE_HOME to a folder on another disk"
  fi
  die "cannot $1" "${said:-nothing was said}" "success" "$2"
}

check_place() {
  case $trees in
    *[:\"\\]*) die "Bazel cannot live under this path" "$trees" "a path without colon, quote and backslash" \
      "set XDG_CACHE_HOME to such a folder" ;;
  esac
  if ! mkdir -p "$trees" 2>/dev/null || ! [[ -w $trees ]]; then
    die "the folder for Bazel cannot be written" "$trees" "a folder that this user can create and write" \
      "set HOME, or XDG_CACHE_HOME, to a writable folder, or set ZML_BAZEL to a Bazel that is installed already"
  fi
}

# Children close descriptor 9 (`9>&-`): a killed provision frees the lock at once, whatever its children still do.
take_lock() {
  exec 9>"$trees/lock" || fail "open the lock $trees/lock" "check the rights of that file"
  flock --nonblock 9 && return
  say "another process is bringing Bazel into $trees; waiting for it"
  flock 9 || fail "wait for the lock $trees/lock" "check that its file system has locks, or set XDG_CACHE_HOME"
}

check_space() {
  local need free
  need=$(($1 / 1048576 + $2 / 1024 + 50)) # MB: the packages, the files, the index
  free=$(df -Pm "$trees" | awk 'NR == 2 { print $4 }')
  ((free >= need)) && return
  die "the disk is too full for Bazel" "$free MB free in $trees" "at least $need MB" \
    "free space there, or set XDG_CACHE_HOME to a folder on another disk"
}

# What the wrapper compares with the tree's own copy, to see whether the tree is the one it wants.
inputs() {
  printf '%s\n' "$trees"
  cat "$here"/{packages.txt,provision.sh,apt.sh,tree.sh}
}

main() {
  check_place
  tree=$(inputs | sha256sum)
  tree=$trees/${tree:0:16}
  take_lock
  [[ -x $tree/bazel ]] && return
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM HUP
  rm -rf "$trees"/work.* "$tree"
  mkdir -p "$work" 2>/dev/null || fail "create $work" "set XDG_CACHE_HOME to a writable folder"
  local start=$SECONDS

  apt_configure
  say "this machine has no Bazel 7.7 or later: bringing it from Debian's packages, once, into $trees"
  progress 1/4 "package index of $(printed "$mirror")"
  apt_index
  apt_resolve # sets packages, download_bytes, unpacked_kib
  check_space "$download_bytes" "$unpacked_kib"
  apt_download 2/4 "$packages packages, $((download_bytes / 1000000)) MB"
  tree_unpack 3/4
  progress 4/4 "making it run from $tree"
  tree_settle
  tree_commit
  say "Bazel is ready ($((SECONDS - start)) s, $(du -sm "$tree" | awk '{ print $1 }') MB in $tree)"
}
main

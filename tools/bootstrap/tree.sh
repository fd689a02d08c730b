# shellcheck shell=bash disable=SC2154
# From downloaded packages to a tree that runs where it lies, using nothing of the host's libraries. Sourced by
# provision.sh. What Debian builds for / is settled for $tree: links, ELF interpreters and search paths, the class path.

# tree_unpack STEP: lays the packages out in $work/tree and moves that to its place, where nothing uses it yet.
tree_unpack() {
  local deb n=0 debs=("$work"/archives/*.deb) exclude=()
  while read -r path; do exclude+=("--exclude=./$path"); done < <(listed drop)
  ((${#debs[@]} == packages)) || fail "find the $packages packages that apt has downloaded" "use a mirror over http:, https: or file:"
  mkdir "$work/tree" || fail "create $work/tree" "check that disk"
  : >"$log"
  for deb in "${debs[@]}"; do
    n=$((n + 1))
    if [[ -t 2 ]]; then
      progress "$1" "unpacking $n of ${#debs[@]}"
    elif ((n == 1)); then
      progress "$1" "unpacking ${#debs[@]} packages"
    fi
    dpkg-deb --fsys-tarfile "$deb" 2>>"$log" 9>&- |
      tar -x --no-same-owner -C "$work/tree" "${exclude[@]}" 2>>"$log" 9>&- || fail "unpack ${deb##*/}" "try again"
    rm -f "$deb"
  done
  mv "$work/tree" "$tree" 2>>"$log" || fail "move the tree to $tree" "check that disk"
}

# Re-points what is absolute into the tree. Sets $loader, $libraries, $java (the folder of the Java run time).
tree_settle() {
  local link to file line classpath
  find "$tree" -type l -lname '/*' -printf '%p\n%l\n' | while read -r link && read -r to; do
    [[ ! -e $tree$to && ! -L $tree$to ]] || ln -sfn "$tree$to" "$link" 2>>"$log" || exit 1
  done || fail "point the links of the tree into it" "check that disk"

  loader=$(find "$tree/usr/lib" -maxdepth 2 -path '*-linux-gnu/ld-linux*.so.*' 2>/dev/null | head -n 1)
  loader=${loader:-$tree/usr/lib/ld-linux.so}
  libraries=${loader%/*}
  java=$(find "$tree/usr/lib/jvm" -maxdepth 3 -path '*/bin/java' 2>/dev/null | head -n 1) # find follows no links
  java=${java%/bin/java} java=${java:-$tree/usr/lib/jvm}
  for file in "$loader" "$tree/usr/bin/patchelf" "$tree/usr/bin/bazel" "$tree/usr/share/bazel" "$java/bin/java"; do
    [[ -e $file ]] && continue
    printf 'no %s\n' "$file" >>"$log"
    fail "find all of Bazel in the packages" "the suite has changed: correct tools/bootstrap/packages.txt"
  done

  # DT_RPATH rather than RUNPATH: it comes before LD_LIBRARY_PATH, and libraries inherit it.
  for file in "$tree/usr/bin/bazel" "$java/bin/java" "$java"/lib/jspawnhelper "$tree"/usr/libexec/*/bazel/*; do
    "$loader" --library-path "$libraries" "$tree/usr/bin/patchelf" --set-interpreter "$loader" \
      --force-rpath --set-rpath "$java/lib:$libraries" "$file" 2>>"$log" 9>&- || fail "patch $file" "check that disk"
  done

  classpath=$tree/usr/share/bazel/bazel_classpath_debian_depends.txt
  {
    while IFS= read -r line; do
      [[ $line == /* && -e $tree$line ]] && printf '%s\n' "$tree$line"
    done <"$classpath"
    while read -r file; do
      [[ -e $tree/usr/share/java/$file ]] || fail "find $file in the packages" "correct tools/bootstrap/packages.txt"
      printf '%s\n' "$tree/usr/share/java/$file"
    done < <(listed jar)
  } >"$classpath.new" || fail "write $classpath" "check that disk"
  mv "$classpath.new" "$classpath" 2>>"$log" || fail "write $classpath" "check that disk"
}

# Writes the launcher, runs what it would run, and only then gives it its name.
tree_commit() {
  local quoted=${tree//\'/\'\\\'\'} quoted_java=${java//\'/\'\\\'\'}
  cat >"$tree/bazel.new" <<LAUNCHER || fail "write $tree/bazel" "check that disk"
#!/bin/sh
# Bazel from Debian's packages, as it runs from this folder. Made by tools/bootstrap of zml.
exec '$quoted/usr/bin/bazel' --nosystem_rc --install_base='$quoted/usr/share/bazel' --trust_install_base \\
  --server_javabase='$quoted_java' "\$@"
LAUNCHER
  chmod +x "$tree/bazel.new"
  inputs >"$tree/inputs" || fail "write $tree/inputs" "check that disk"
  { "$tree/bazel.new" --version && "$java/bin/java" -version; } >>"$log" 2>&1 9>&- ||
    fail "run the Bazel that was unpacked" "report this with the lines above; meanwhile set ZML_BAZEL to another Bazel"
  mv "$tree/bazel.new" "$tree/bazel" 2>>"$log" || fail "write $tree/bazel" "check that disk"
}

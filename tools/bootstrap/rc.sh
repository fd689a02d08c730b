#!/usr/bin/env bash
# rc.sh TREE: writes the bazelrc that goes with a provisioned Bazel, and with no other: where its modules are.
set -u
shopt -s nullglob
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd -P)
# shellcheck source=say.sh
. "$here/say.sh"
tree=$1

write() {
  echo "# Written by tools/bootstrap/rc.sh of zml."
  # Nothing here asks a registry, so there is nothing to lock; a lock would hold paths of this machine.
  echo "common --noenable_workspace --lockfile_mode=off"
  # The sandbox shows actions an empty /tmp.
  [[ $(cd "$tree" && pwd -P) == /tmp/* ]] && printf 'common "--sandbox_add_mount_pair=%s"\n' "$(cd "$tree" && pwd -P)"
  # Java's own trust store comes with the host's Java, if at all: TLS to a remote cache uses the host's certificates.
  [[ -r /etc/ssl/certs/ca-certificates.crt ]] && echo "common --tls_certificate=/etc/ssl/certs/ca-certificates.crt"
  local module place
  while read -r module place; do
    [[ -z $module || $module == \#* ]] && continue
    if [[ $place == empty ]]; then
      place=$tree/empty/$module
      mkdir -p "$place" && printf 'module(name = "%s")\n' "$module" >"$place/MODULE.bazel" && : >"$place/BUILD.bazel" || return 1
    else
      place=$tree/usr/share/bazel/$place
    fi
    printf 'common "--override_module=%s=%s"\n' "$module" "$place"
  done <"$here/modules.txt"
}

# The inputs come last: without them the wrapper does not look at the rest.
finish() {
  mkdir -p "$rc" && write >"$rc/bazelrc.$$" && mv "$rc/bazelrc.$$" "$rc/bazelrc" &&
    inputs >"$rc/inputs.$$" && mv "$rc/inputs.$$" "$rc/inputs"
}

inputs() { cat "$here"/{modules.txt,rc.sh}; }

rc=$(inputs | sha256sum)
rc=$tree/rc/${rc:0:16}
finish 2>/dev/null ||
  die "cannot write Bazel's settings" "$rc" "a folder that this user can write" \
    "check the rights and free space of that folder, or remove $tree, so that it is made again"

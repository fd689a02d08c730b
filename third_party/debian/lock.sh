#!/bin/bash
# Writes lock.json from packages.txt and the index of a Debian mirror.
#
# Resolution and signature checks are apt's own, in a private configuration with an empty system, so the host's packages,
# release and architecture do not matter. Shell, because the interpreter comes from the lock that this refreshes.
set -euo pipefail
export LC_ALL=C

suite=trixie
architectures="amd64 arm64"
keyring=${ZML_DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
folder=${BUILD_WORKSPACE_DIRECTORY:?run it with ./bazel run //third_party/debian:lock}/third_party/debian

die() {
  echo "lock: $*" >&2
  exit 1
}

command -v apt-get >/dev/null || die "apt-get is needed to check the index's signature and to resolve dependencies: run this on a Debian-family host"
[ -r "$keyring" ] || die "no keyring at $keyring: install the package debian-archive-keyring, or set ZML_DEBIAN_KEYRING"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,preferences.d}
: >"$work/status"

# Only the places are private: proxies, certificates and credentials stay the host's.
private() {
  local arch=$1 command=$2
  shift 2
  "$command" -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
    -o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts="$work/preferences.d" -o APT::Default-Release= \
    -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o APT::Install-Recommends=false \
    -o Acquire::Languages=none -o APT::Sandbox::User= -o Acquire::Check-Valid-Until=false "$@"
}

# apt reads its own sources: without lists, it prints the address of every index that it would get.
debian='oldoldstable|oldstable|stable|testing|unstable|sid|bullseye|bookworm|trixie|forky|duke'
mirror=${ZML_DEBIAN_MIRROR:-$(private amd64 apt-get update --print-uris |
  awk -F/dists/ -v main="^($debian)(-updates|-backports)?/main/binary-" '$2 ~ main && !found++ { print substr($1, 2) }')}
[ -n "$mirror" ] || die "no Debian mirror in this host's apt sources: set ZML_DEBIAN_MIRROR to the URL of one, the folder that holds dists/ and pool/"
echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"

# As the host has them, but for the one source.
trixie() {
  private "$@" -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=-
}

# One line `G GROUP ARCH NAME` for each member of a group, `O GROUP NAME` for each one left out, and the record of each package as apt-cache shows it.
for arch in $architectures; do
  rm -rf "$work/cache" && mkdir -p "$work/cache/archives/partial"
  trixie "$arch" apt-get update -qq >&2 || die "the index of $suite for $arch at $mirror could not be read or its signature is bad (see above)"
  grep -v '^ *\(#\|$\)' "$folder/packages.txt" | while IFS=': ' read -r group words; do
    roots=() omitted=" "
    for word in $words; do
      case $word in -*) omitted+="${word#-} " ;; *) roots+=("$word") ;; esac
    done
    resolved=$(trixie "$arch" apt-get --print-uris -qq install "${roots[@]}" | awk '{ sub(/_.*/, "", $2); print $2 }' | sort -u) ||
      die "apt finds no way to install ${roots[*]} for $arch"
    names=()
    for name in $resolved; do
      case $omitted in *" $name "*) echo "O $group $name" && continue ;; esac
      echo "G $group $arch $name"
      names+=("$name")
    done
    trixie "$arch" apt-cache show --no-all-versions "${names[@]}"
  done
done >"$work/resolved"

# A name that is left out for nothing is a mistake, or is left from an earlier version of the packages.
grep -v '^ *\(#\|$\)' "$folder/packages.txt" | while IFS=': ' read -r group words; do
  for word in $words; do
    [ "$word" = "${word#-}" ] || grep -qx -- "O $group ${word#-}" "$work/resolved" ||
      die "packages.txt leaves ${word#-} out of $group, which does not depend on it: remove $word"
  done
done

awk -v suite="$suite" '
  function quoted(s) { return "\"" s "\"" }
  $1 == "O" && NF == 3 { next }
  $1 == "G" && NF == 4 {
    if (!($2 in members)) { groups[++ngroups] = $2; members[$2] = "" }
    key = $2 SUBSEP $3
    if (!(key in list)) { list[key] = quoted($4); members[$2] = members[$2] " " $3 } else list[key] = list[key] ", " quoted($4)
    delete field; next
  }
  /^[A-Z][A-Za-z0-9-]*: / { name = $1; sub(/:$/, "", name); if (!(name in field)) field[name] = $2 }
  /^$/ && ("SHA256" in field) {
    line = sprintf("{\"name\": \"%s\", \"version\": \"%s\", \"architecture\": \"%s\", \"path\": \"%s\", \"size\": %s, \"sha256\": \"%s\"}",
      field["Package"], field["Version"], field["Architecture"], field["Filename"], field["Size"], field["SHA256"])
    if (!(line in seen)) { seen[line] = 1; print line }
    delete field
  }
  END {
    printf "" > groups_file
    for (i = 1; i <= ngroups; i++) {
      n = split(members[groups[i]], archs, " ")
      printf "    %s: {\n", quoted(groups[i]) > groups_file
      for (j = 1; j <= n; j++)
        printf "      %s: [%s]%s\n", quoted(archs[j]), list[groups[i] SUBSEP archs[j]], j < n ? "," : "" > groups_file
      printf "    }%s\n", i < ngroups ? "," : "" > groups_file
    }
  }' groups_file="$work/groups" "$work/resolved" | sort >"$work/packages"
[ -s "$work/packages" ] || die "apt resolved no package: is packages.txt empty?"

{
  printf '{\n  "suite": "%s",\n  "groups": {\n' "$suite"
  cat "$work/groups"
  printf '  },\n  "packages": [\n'
  sed 's/^/    /; $!s/$/,/' "$work/packages"
  printf '  ]\n}\n'
} >"$work/lock.json"
mv "$work/lock.json" "$folder/lock.json"
echo "lock: $(wc -l <"$work/packages") packages of $suite from $mirror in third_party/debian/lock.json" >&2

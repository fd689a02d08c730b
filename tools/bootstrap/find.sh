# shellcheck shell=bash disable=SC2153
# What to run when no provisioned Bazel is there yet. Sourced by ../../bazel, which sets ZML_*; ends in exec or exit.
# Runs on macOS too: bash 3.2, no GNU tools.
ZML_ROOT=$(cd "$ZML_ROOT" && pwd -P)
ZML_BOOTSTRAP=$ZML_ROOT/tools/bootstrap
# shellcheck source=say.sh
. "$ZML_BOOTSTRAP/say.sh"

# why_not PROGRAM: prints why a `bazel` on PATH cannot be taken; prints nothing if it can.
why_not() {
  local version major minor
  [[ $1 -ef $ZML_ROOT/bazel ]] && { echo "it is this wrapper" && return; }
  [[ $1 -ef /usr/bin/bazel && -e /usr/share/bazel/install_base_key ]] &&
    { echo "it is Debian's own build, whose rules are not set up for this repository" && return; }
  version=$(cd "$ZML_ROOT" && ZML_BAZEL_PROBE=1 "$1" --version </dev/null 2>/dev/null) || version=''
  version=${version#bazel }
  major=${version%%.*} minor=${version#*.} minor=${minor%%[!0-9]*}
  if [[ ! $major =~ ^[0-9]+$ || ! $minor =~ ^[0-9]+$ ]]; then
    echo "it does not tell its version"
  elif ((major < 7 || (major == 7 && minor < 7))); then
    echo "it is version $version, and this repository needs 7.7 or later"
  fi
}

passed_over=()
while IFS= read -r candidate; do
  [[ -z $candidate ]] && continue
  [[ ${candidate##*/} == bazelisk ]] && exec "$candidate" "$@"
  reason=$(why_not "$candidate")
  [[ -z $reason ]] && exec "$candidate" "$@"
  passed_over+=("$candidate: $reason")
done <<<"$(type -aP bazelisk; type -aP bazel)"
for reason in ${passed_over[@]+"${passed_over[@]}"}; do say "passed over $reason"; done

for tool in dpkg dpkg-deb apt-get apt-cache; do
  type -P "$tool" >/dev/null && continue
  die "this machine has no Bazel, and it cannot be brought here" \
    "no bazelisk and no bazel of 7.7 or later on PATH, and no $tool: not a Debian-family host" \
    "Bazel 7.7 or later" \
    "install bazelisk (macOS: brew install bazelisk; elsewhere: npm install -g @bazel/bazelisk), or set ZML_BAZEL to a Bazel"
done
if [[ -z $ZML_TREES ]]; then
  die "there is no place to keep Bazel in" "HOME='${HOME:-}', XDG_CACHE_HOME='${XDG_CACHE_HOME:-}'" \
    "an absolute path in one of the two" "set HOME, or XDG_CACHE_HOME, to a folder that you can write in"
fi

bash "$ZML_BOOTSTRAP/provision.sh" "$ZML_TREES" && exec "$ZML_ROOT/bazel" "$@"
exit 1

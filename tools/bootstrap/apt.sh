# shellcheck shell=bash disable=SC2034,SC2154
# Packages from a Debian mirror through the host's apt, in a private state folder ($work). Sourced by provision.sh.
# Of the host's apt configuration, what says how to reach a mirror (proxies, credentials, certificates) stays in force;
# what says which packages to take, or runs programs, does not.

# A mirror as it may be shown: without the credentials that its address may hold.
printed() { printf '%s' "$1" | sed 's|//[^/@]*@|//|'; }

apt_get() { apt-get -c "$work/apt.conf" "$@" 9>&- </dev/null; }

# Sets $architecture and $mirror, writes apt.conf and its folders. `-c` is read after the host's files, so it wins.
apt_configure() {
  architecture=$(dpkg --print-architecture)
  case $architecture in
    amd64 | arm64) ;;
    *) die "no Bazel for this machine" "architecture $architecture" "amd64 or arm64" "set ZML_BAZEL to a Bazel 7.7 built for it" ;;
  esac
  suite=$(listed suite)
  mkdir -p "$work"/{lists,archives}/partial "$work"/{sources,keys,none} || fail "create $work" "check that disk"
  : >"$work/status"
  cat >"$work/apt.conf" <<CONF
#clear APT::Update;
#clear DPkg;
#clear APT::Architectures;
APT::Architectures { "$architecture"; };
APT::Architecture "$architecture";
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::Check-Valid-Until "false"; // a mirror may be a frozen copy; signatures stay checked
Acquire::Check-Date "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "$work";
Dir::State::status "$work/status";
Dir::State::lists "$work/lists";
Dir::State::extended_states "$work/extended_states";
Dir::Cache "$work";
Dir::Cache::archives "$work/archives";
Dir::Etc::preferences "$work/none/preferences";
Dir::Etc::preferencesparts "$work/none";
Dir::Log "$work";
CONF
  apt_mirror
  apt_keys
  cat >>"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/sources/list";
Dir::Etc::sourceparts "$work/none";
Dir::Etc::trusted "";
Dir::Etc::trustedparts "$work/keys";
CONF
  # apt would leave the packages of a file: mirror where they are; with copy: it treats them as those of any other.
  printf 'deb [arch=%s target=Packages] %s %s main\n' "$architecture" "${mirror/#file:/copy:}" "$suite" >"$work/sources/list"
}

# $mirror is $ZML_DEBIAN_MIRROR or the first source of the host that serves a Debian release's `main`. apt itself reads
# the host's sources: with no lists yet, it prints the address of every index that it would get.
apt_mirror() {
  mirror=${ZML_DEBIAN_MIRROR:-}
  mirror_from="ZML_DEBIAN_MIRROR"
  if [[ -z $mirror ]]; then
    mirror_from="the apt sources of this host"
    mirror=$(apt_get update --print-uris 2>"$log" |
      awk -v suites="$suite $(. /etc/os-release 2>/dev/null; printf %s "${VERSION_CODENAME:-}") oldstable stable testing unstable sid" '
        match($0, /^.*\/main\/binary-[^\/]*\/Packages/) {
          split($0, part, "/main/binary-"); at = part[1]
          suite = at; sub(/.*\/dists\//, "", suite); sub(/\/dists\/.*/, "", at)
          if (index(" " suites " ", " " suite " ")) { print substr(at, 2); exit }
        }')
  fi
  mirror=${mirror// /%20}
  [[ -n $mirror ]] && return
  die "no Debian mirror is known" "no apt source of this host serves a Debian release: $(tail -n 2 "$log" | tr '\n' ' ')" \
    "the address of a mirror that has Debian's suite $suite" "set ZML_DEBIAN_MIRROR to one (http:, https: or file:)"
}

# The keys that may sign the index: $ZML_DEBIAN_KEYRING, or those of Debian's archive. Copied, since apt takes them only
# by ending (.gpg binary, .asc text) and its one-line sources cannot name a path with a space.
apt_keys() {
  for keyring in "${ZML_DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}" \
    "${ZML_DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.pgp}"; do
    [[ -f $keyring && -r $keyring ]] || continue
    local ending=gpg
    if [[ $(head -c 5 "$keyring" | tr -d '\0') == ----- ]]; then ending=asc; fi
    cp "$keyring" "$work/keys/archive.$ending" 2>>"$log" || fail "copy the keyring $keyring" "check that file"
    return
  done
  die "the keys of Debian's archive are missing" "no file $keyring" \
    "a keyring to check the signature of the suite $suite with" \
    "install the package debian-archive-keyring, or set ZML_DEBIAN_KEYRING to a copy of its keyring"
}

# Gets the signed index of the suite, or says which of its ways to fail it is.
apt_index() {
  apt_get -q update >"$log" 2>&1 && return
  local said given
  said=$(grep -E '^(E|W|Err):?' "$log" | head -n 6)
  given="$(printed "$mirror") from $mirror_from, suite $suite
$(printed "$said")"
  if disk_full; then fail "store the package index" ""; fi
  # apt 3 calls the wrong hash of a local file an "Undetermined Error".
  if grep -qE 'Hash Sum mismatch|unexpected size|Mirror sync|Undetermined Error' "$log"; then
    die "the package index of the mirror does not fit its signature" "$given" "an index that the suite's signed Release file describes" \
      "try again later (the mirror is being updated), or use another mirror (ZML_DEBIAN_MIRROR)"
  fi
  if grep -qE 'NO_PUBKEY|not signed|BADSIG|KEYEXPIRED|EXPKEYSIG|REVKEYSIG|NODATA|[Ss]ignature|OpenPGP' "$log"; then
    die "the package index is not signed by Debian's archive" "$given" "a signature by a key in $keyring" \
      "update the package debian-archive-keyring, or use another mirror (ZML_DEBIAN_MIRROR); for a mirror with keys of its own set ZML_DEBIAN_KEYRING"
  fi
  die "no Debian mirror in reach" "$given" "a mirror of Debian that has the suite $suite (those of Ubuntu and other derivatives do not)" \
    "check the network and apt's proxy settings, or set ZML_DEBIAN_MIRROR to a mirror in reach"
}

# Resolves the list. What is to be left out is declared installed, a trifle newer than the suite has it (apt "upgrades"
# an equal version with other contents), so that apt neither takes it nor what only it needs. Sets $packages, $download_bytes, $unpacked_kib.
apt_resolve() {
  local wanted
  # Names that the suite no longer has make apt-cache fail, and need not be left out any more.
  listed without | xargs apt-cache -c "$work/apt.conf" show --no-all-versions 2>>"$log" 9>&- |
    awk -v arch="$architecture" '/^(Package|Version):/ { field[$1] = $2 }
      /^$/ { if ("Version:" in field) printf "Package: %s\nStatus: install ok installed\nMaintainer: none <none>\n" \
               "Architecture: %s\nMulti-Arch: foreign\nVersion: %s+out\nDescription: left out\n\n", \
               field["Package:"], arch, field["Version:"]; delete field }' >"$work/status"
  wanted=$(listed install)
  # shellcheck disable=SC2086
  apt_get -y --print-uris install $wanted >"$work/uris" 2>>"$log" ||
    fail "resolve the packages of tools/bootstrap/packages.txt in the suite $suite" \
      "use another mirror (ZML_DEBIAN_MIRROR), or correct the list for what the suite has now"
  # Lines are 'ADDRESS' FILE BYTES HASH.
  grep "^'" "$work/uris" | sed "s/^'[^']*' //" >"$work/files"
  read -r packages download_bytes < <(awk '{ bytes += $2 } END { printf "%d %.0f\n", NR, bytes }' "$work/files")
  unpacked_kib=$(sed 's/_.*//' "$work/files" |
    xargs apt-cache -c "$work/apt.conf" show --no-all-versions 2>>"$log" 9>&- |
    awk '/^Installed-Size:/ { kib += $2 } END { printf "%.0f\n", kib }')
}

# apt_download STEP TEXT: gets and checks (size, SHA-256 from the signed index) every package into $work/archives.
apt_download() {
  local wanted kind percent shown=0
  wanted=$(listed install)
  progress "$1" "downloading $2"
  # shellcheck disable=SC2086
  apt_get -q -y --download-only -o APT::Status-Fd=3 install $wanted 3>&1 >>"$log" 2>&1 |
    while IFS=: read -r kind _ percent _; do
      percent=${percent%%.*}
      [[ $kind == dlstatus && $percent =~ ^[0-9]+$ ]] || continue
      [[ -t 2 ]] || percent=$((percent / 25 * 25))
      ((percent > shown)) && shown=$percent && progress "$1" "downloading $2: $percent %"
    done
  ((PIPESTATUS[0] == 0)) || fail "download the packages from $(printed "$mirror")" \
    "try again; if a file is missing there, the mirror is being updated or is incomplete: use another (ZML_DEBIAN_MIRROR)"
}

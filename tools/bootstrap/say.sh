# shellcheck shell=bash
# How the wrapper speaks: everything on stderr, under one name. Sourced.

say() { printf 'bazel: %s\n' "$*" >&2; }

# die PROBLEM GIVEN EXPECTED MEND: the one shape of every error; ends the process.
die() {
  {
    printf 'bazel: error: %s\n' "$1"
    printf '  given:    %s\n' "$2"
    printf '  expected: %s\n' "$3"
    printf '  to mend:  %s\n' "$4"
  } >&2
  exit 1
}

# progress STEP TEXT: a line that replaces itself on a terminal; elsewhere (a log) one line for each new text.
progress() {
  if [[ -t 2 ]]; then
    printf '\r\033[Kbazel: [%s] %s' "$1" "$2" >&2
  elif [[ ${said:-} != "$2" ]]; then
    said=$2
    say "[$1] $2"
  fi
}

# Ends the line that progress() keeps open on a terminal.
progress_end() { if [[ -t 2 ]]; then printf '\n' >&2; fi; }

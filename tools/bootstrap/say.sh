# shellcheck shell=bash
# How the wrapper speaks: everything on stderr, under one name. Sourced.

say() {
  progress_end
  printf 'bazel: %s\n' "$*" >&2
}

# die PROBLEM GIVEN EXPECTED MEND: the one shape of every error; ends the process.
die() {
  say "error: $1"
  printf '  given:    %s\n  expected: %s\n  to mend:  %s\n' "$2" "$3" "$4" >&2
  exit 1
}

# progress STEP TEXT: a line that replaces itself on a terminal; elsewhere (a log) one line for each new text.
progress() {
  if [[ -t 2 ]]; then
    printf '\r\033[Kbazel: [%s] %s' "$1" "$2" >&2
    progress_open=1
  elif [[ ${progress_text:-} != "$2" ]]; then
    progress_text=$2
    say "[$1] $2"
  fi
}

# Ends the line that progress() keeps open on a terminal.
progress_end() {
  [[ -n ${progress_open:-} ]] && printf '\n' >&2
  progress_open=''
}

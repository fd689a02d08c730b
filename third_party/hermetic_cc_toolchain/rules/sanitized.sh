#!/bin/sh
# Runs the program with the sanitizers' options. A report ends it with exit code 66, which no program of ours uses.
program=%program%
[ -x "$program" ] || program=$0.runfiles/%workspace%/$program

# Names and lines in the reports' stacks, where this host has a tool that knows them.
symbolizer=$(command -v llvm-symbolizer || command -v addr2line) ||
  echo "neither llvm-symbolizer nor addr2line is on PATH: a report would have addresses instead of lines" >&2
common=exitcode=66${symbolizer:+:external_symbolizer_path=$symbolizer}

export ASAN_OPTIONS="$common:detect_stack_use_after_return=1:strict_string_checks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export LSAN_OPTIONS="$common${LSAN_OPTIONS:+:$LSAN_OPTIONS}"
export TSAN_OPTIONS="$common:second_deadlock_stack=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
export UBSAN_OPTIONS="$common:print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
exec "$program" "$@"

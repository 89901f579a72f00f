#!/usr/bin/env bash
# The compiler of `run.sh`: it leaves the instructions that watch for coverage out of the dependencies. They took half of the time,
# and made inputs that are new to redb, and not to the store, count as new. Cargo does not build again what it has built without this
# script: remove `fuzz/target` then.
set -euo pipefail

rustc=$1
shift
# Cargo says which package it builds.
case ${CARGO_PKG_NAME:-} in tallystone | tallystone-fuzz) exec "$rustc" "$@" ;; esac
kept=()
for flag in "$@"; do
    case $flag in
    -Cpasses=sancov-module | -Cllvm-args=-sanitizer-coverage-*) ;;
    *) kept+=("$flag") ;;
    esac
done
exec "$rustc" "${kept[@]}"

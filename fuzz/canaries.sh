#!/usr/bin/env bash
# Asks of each target that it finds its canary within a minute: from the committed corpus, or with `--empty` from nothing.
# Run from anywhere: `bash fuzz/canaries.sh [--empty] [TARGET..]`. Needs what `run.sh` needs.
set -euo pipefail
cd "$(dirname "$0")"

empty=
if [ "${1:-}" = --empty ]; then empty=yes; shift; fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(hostile_log ops_vs_model record_decode rule_parser)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export FLAGS="--features canary"

missed=0
for target in "${targets[@]}"; do
    mkdir "$scratch/nothing" "$scratch/$target"
    # It is built before the minute begins. The empty input finds nothing, so this fails only if the build does.
    CORPUS=$scratch/nothing bash run.sh "$target" -runs=0 >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
    [ -n "$empty" ] || cp "corpus/$target"/* "$scratch/$target"
    begun=$(date +%s.%N)
    CORPUS=$scratch/$target bash run.sh "$target" -max_total_time=60 -artifact_prefix="$scratch/" \
        >"$scratch/log" 2>&1 || true
    took=$(awk -v begun="$begun" -v now="$(date +%s.%N)" 'BEGIN { printf "%.1f", now - begun }')
    if grep -q 'Test unit written to .*/crash-' "$scratch/log"; then
        echo "$target: found in $took s"
    else
        tail -n 5 "$scratch/log"
        echo "$target: NOT found in $took s"
        missed=1
    fi
    rm -r "$scratch/nothing"
done
exit $missed

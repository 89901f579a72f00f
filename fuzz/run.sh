#!/usr/bin/env bash
# Fuzzes a target: `bash fuzz/run.sh TARGET [OPTION..]`, with options of libFuzzer, such as `-max_total_time=300`.
# FLAGS are more flags of cargo-fuzz; CORPUS is another folder of inputs. Needs cargo-fuzz and a nightly toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$1
shift
# There is no `unsafe` here for a sanitizer to watch. `-O` leaves the assertions of this crate in, see `Cargo.toml`. Inputs are
# programs: comparisons tell nothing of them.
flags=(-s none -O --no-trace-compares ${FLAGS:-})
export RUSTC_WRAPPER=$PWD/fuzz/rustc.sh
# An entropic schedule weighs all inputs anew again and again, which took a third of the time.
options=(-entropic=0 -max_len=512)
# A long program is a slow one. And nearly every program does something once more or less often than all before it: that is no
# reason to keep it.
[ "$target" != ops_vs_model ] || options=(-entropic=0 -max_len=192 -use_counters=0)
[ ! -f "fuzz/dictionaries/$target.dict" ] || options+=("-dict=fuzz/dictionaries/$target.dict")
exec cargo +nightly fuzz run "${flags[@]}" "$target" "${CORPUS:-fuzz/corpus/$target}" -- "${options[@]}" "$@"

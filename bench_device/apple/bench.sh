#!/bin/sh
# Bench a Core ML job on this Mac, once per compute unit.
#
#     bench.sh JOB_FOLDER [RESULT_FOLDER]
#
# JOB_FOLDER holds job.json, model/ and inputs/ (bench_device/README.md). One result file per unit:
# RESULT_FOLDER/{cpu,gpu,ane,all}.jsonl.
set -eu
job=${1:?"usage: bench.sh JOB_FOLDER [RESULT_FOLDER]"}
results=${2:-results}
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$job/job.json" ] || { echo "error: $job has no job.json" >&2; exit 2; }
swift build --package-path "$here" --configuration release
runner=$(swift build --package-path "$here" --configuration release --show-bin-path)/cmexport-bench
mkdir -p "$results"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$job/." "$work/"
for unit in cpu gpu ane all; do
    sed "s/\"provider\": *\"[^\"]*\"/\"provider\": \"$unit\"/" "$job/job.json" > "$work/job.json"
    # A process for each: what one unit has cached must not help the next.
    "$runner" "$work" --result "$results/$unit.jsonl.part" || echo "$unit: $(tail -n 1 "$results/$unit.jsonl.part")" >&2
    mv "$results/$unit.jsonl.part" "$results/$unit.jsonl"
done

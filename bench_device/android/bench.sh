#!/bin/sh
# Bench an ONNX job in the app, on the phone that adb (or $ANDROID_SERIAL) reaches.
#
#     bench.sh JOB_FOLDER [RESULT_FILE]
#
# JOB_FOLDER holds job.json, model/ and inputs/ (bench_device/README.md). Build and install the app first:
#     gradle installDebug installDebugAndroidTest
set -eu
job=${1:?"usage: bench.sh JOB_FOLDER [RESULT_FILE]"}
result=${2:-result.jsonl}
app=dev.cmexport.bench
[ -f "$job/job.json" ] || { echo "error: $job has no job.json" >&2; exit 2; }
remote=/data/local/tmp/cmexport-app-$$
trap 'adb shell rm -rf "$remote"; adb shell run-as "$app" rm -rf files/job files/result.jsonl' EXIT
adb shell mkdir -p "$remote"
adb push "$job/." "$remote/" > /dev/null
# The app's own folder: no permission to ask for, and nothing of it is left when the app goes.
adb shell run-as "$app" mkdir -p files
adb shell run-as "$app" rm -rf files/job files/result.jsonl
adb shell run-as "$app" cp -r "$remote" files/job
adb shell am instrument -w "$app.test/androidx.test.runner.AndroidJUnitRunner"
adb exec-out run-as "$app" cat files/result.jsonl > "$result.part"
mv "$result.part" "$result"
tail -n 1 "$result"

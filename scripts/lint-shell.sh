#!/usr/bin/env bash
# Checks every shell script of the project with shellcheck, and that each one
# that is run stops at the first error.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t scripts < <(grep -rlE --exclude-dir={target,.git} '^#!.*\b(bash|sh)$|^# shellcheck shell=' \
  .ci scripts docker tests examples 2>/dev/null | grep -vE '\.(md|rs|sql)$' | sort)
shellcheck --external-sources --source-path=. "${scripts[@]}"

for script in "${scripts[@]}"; do
  case "$(head -n 1 "$script")" in
    '#!'*) grep -qE '^set -e' "$script" || { echo "$script: lacks 'set -euo pipefail'" >&2 && exit 1; } ;;
  esac
done

#!/usr/bin/env bash
# Instructions of each part in `parts.rs`, per operation, as a Markdown table. Needs valgrind.
#
# Each part runs twice, few times and more; the difference leaves its preparation out.
set -euo pipefail
cd "$(dirname "$0")/.."

few=50
more=250

bench=$(cargo bench --locked --bench parts --no-run 2>&1 | tee /dev/stderr |
  sed -n 's/.*Executable.*(\(.*\))$/\1/p')
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

count() {
  PORTCULLIS_COUNT=$1 PORTCULLIS_TIMES=$2 valgrind --tool=callgrind \
    --callgrind-out-file="$out/$1.$2" "$bench" >"$out/log" 2>&1 || { cat "$out/log" >&2; exit 1; }
  sed -n 's/^summary: //p' "$out/$1.$2"
}

echo "| part | instructions per operation |"
echo "|---|---:|"
for part in framing relay pool handshake; do
  low=$(count "$part" "$few")
  high=$(count "$part" "$more")
  printf "| %s | %d |\n" "$part" $(((high - low) / (more - few)))
done

#!/bin/bash
# docs/demo.sh [FILE...]: the whole idea on real memory and real files, in about a minute.
#
# Starts shrinkd by hand in a directory of its own, loads files of this machine (shared libraries, 256 MiB of them, unless
# files are given) into buffer objects, moves every page out to a store on disk, shows them in the mounted tree, brings them back, and
# compares each with the file it came from. Ends with status 1 if a page differs or did not move. Leaves nothing mounted or running.
#
#   SHRINKD_DEMO_MIB     how much to load (256)
#   SHRINKD_DEMO_STORE   a directory for the store; it must be on a disk (else one in /var/tmp or .build)
#   SHRINKD_PROGRAMS     where the built programs are (.build/release)
set -euo pipefail
# Names of files are the caller's; everything else is the checkout's.
files=()
for file in "$@"; do
    [ -f "$file" ] && [ -s "$file" ] && [ -r "$file" ] || { echo "demo: $file is no readable file with content" >&2; exit 66; }
    files+=("$(realpath "$file")")
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

programs=${SHRINKD_PROGRAMS:-.build/release}
wanted_bytes=$((${SHRINKD_DEMO_MIB:-256} << 20))
page=4096

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

for tool in "$programs"/{shrinkd,backupfs,shrinkctl} jq xxd getfattr; do
    command -v "$tool" >/dev/null || fail "$tool is missing; 'make demo' builds the programs and installs the tools"
done

# ---------------------------------------------------------------- nothing stays behind
work=$(mktemp -d /tmp/shrinkd-demo.XXXXXX)
store=
daemon=

is_running() { [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; }
wait_for_end() { timeout "$1" tail --pid="$daemon" -f /dev/null; }

clean_up() {
    local status=$?
    trap - EXIT INT TERM HUP
    if is_running; then
        kill -TERM "$daemon" 2>/dev/null || true
        # A second signal tells it to skip what takes long; a third means it.
        wait_for_end 30 || { kill -TERM "$daemon" 2>/dev/null || true; wait_for_end 30; } || kill -KILL "$daemon" 2>/dev/null || true
    fi
    [ -z "$daemon" ] || wait "$daemon" 2>/dev/null || true
    local connection
    connection=$(awk -v path="$work/run/backup" '$5 == path {split($3, d, ":"); print d[2]}' /proc/self/mountinfo)
    if [ -n "$connection" ]; then
        echo "demo: the mount was left and is detached" >&2
        { echo 1 >"/sys/fs/fuse/connections/$connection/abort"; } 2>/dev/null || true
        timeout -s KILL 20 umount -c -f -l "$work/run/backup" 2>/dev/null || fusermount3 -u -z "$work/run/backup" || true
        status=1
    fi
    if [ "$status" != 0 ] && [ -s "$work/log" ]; then
        echo "--- the daemon's last words" >&2
        tail -n 15 "$work/log" >&2
    fi
    rm -rf --one-file-system "$work" ${store:+"$store"}
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---------------------------------------------------------------- a store that is really a disk
for base in ${SHRINKD_DEMO_STORE:+"$SHRINKD_DEMO_STORE"} /var/tmp .build; do
    mkdir -p "$base"
    case $(stat -f -c %T "$base") in tmpfs | ramfs) continue ;; esac
    free=$(df --output=avail -B1 "$base" | tail -n 1)
    [ "$free" -gt $((wanted_bytes * 2)) ] || continue
    store=$(mktemp -d "$base/shrinkd-demo-store.XXXXXX")
    break
done
[ -n "$store" ] || fail "no directory on a disk with $((wanted_bytes >> 19)) MiB free; name one with SHRINKD_DEMO_STORE"

# ---------------------------------------------------------------- the files
if [ ${#files[@]} = 0 ]; then
    toolchain=$(dirname "$(dirname "$(readlink -f "$(command -v swift || echo /usr/bin/env)")")")
    total=0
    while read -r size path; do
        files+=("$path")
        total=$((total + size))
        [ "$total" -lt "$wanted_bytes" ] || break
        # Many of middling size before a few huge ones; one of each size, so that no file comes twice under two names.
    done < <(find /usr/lib /opt "$toolchain/lib" -xdev -type f -name '*.so*' -size +64k -printf '%s %p\n' 2>/dev/null |
        sort -rnu -k1,1 | awk '$1 > 33554432 {huge[n++] = $0; next} {print} END {for (i = n - 1; i >= 0; i--) print huge[i]}')
    [ "$total" -ge "$wanted_bytes" ] || fail "only $((total >> 20)) MiB of shared libraries here; name files to load: docs/demo.sh FILE..."
fi

# ---------------------------------------------------------------- start
say "starting shrinkd (store: $store)"
mkfifo "$work/said"
"$programs/shrinkd" --runtime-dir "$work/run" --store "$store/pages" 2>"$work/said" &
daemon=$!
exec {said}<"$work/said"
ready=
while IFS= read -r -t 60 -u "$said" line; do
    printf '%s\n' "$line" >>"$work/log"
    case $line in *Ready.*) ready=yes && break ;; esac
done
# The rest of what it says goes to the log for as long as it lives.
cat <&"$said" >>"$work/log" &
[ -n "$ready" ] || fail "shrinkd did not get ready"
export SHRINKD_SOCKET=$work/run/io.shrinkd
mount=$work/run/backup
ctl() { timeout -s KILL 300 "$programs/shrinkctl" "$@"; }

# `shrinkctl status` as of now: resident, zero, backed-up and empty pages.
states() { ctl status --json | jq -r '.pages | "\(.resident) \(.zero) \(.backed_up) \(.empty)"'; }
allocated() { ctl pool list --json | jq '[.. | .allocated_bytes? // empty] | first'; }
# The same figure from the kernel: 512-byte blocks of the engine's memory file that has the pool's size.
blocks() {
    local engine file
    engine=$(awk '$1 == "engine" {print $2}' "$work/run/lock")
    for file in /proc/"$engine"/fd/*; do
        case $(readlink "$file") in /memfd:*) ;; *) continue ;; esac
        [ "$(stat -L -c %s "$file")" = "$pool_bytes" ] && stat -L -c %b "$file" && return
    done
    fail "the engine has no memory file of $pool_bytes bytes"
}

# ---------------------------------------------------------------- load
pages=0
for path in "${files[@]}"; do pages=$((pages + ($(stat -L -c %s "$path") + page - 1) / page)); done
# Twice the need: a pool's memory costs nothing until it is written.
pool_bytes=$((pages * page * 2))
say "loading ${#files[@]} files, $pages pages ($((pages * page >> 20)) MiB), into pool 'demo'"
ctl pool create demo --size "$pool_bytes" --json >/dev/null
ids=() sums=()
for path in "${files[@]}"; do
    sums+=("$(sha256sum <"$path")")
    ids+=("$(ctl object create demo "$(basename "$path")" --size "$(stat -L -c %s "$path")" --from "$path" --json | jq .id)")
done
before=$(states)
echo "the pool file takes $(allocated) bytes"

# ---------------------------------------------------------------- out
say "shrinking all of it"
shrunk=$(ctl shrink --all --json)
during=$(states)
allocated_now=$(allocated)
blocks_now=$(blocks)
read -r resident zero backed_up empty <<<"$during"
echo "the pool file takes $allocated_now bytes; the kernel says $blocks_now blocks"
[ "$resident" = 0 ] || fail "$resident pages did not move"
[ $((zero + backed_up)) = "$pages" ] || fail "$((zero + backed_up)) of $pages pages went out"
[ "$allocated_now" = 0 ] && [ "$blocks_now" = 0 ] || fail "the pool file still has blocks"

# ---------------------------------------------------------------- look
say "what anyone who may can see in $mount"
look() { timeout -s KILL 30 "$@" 2>&1 || true; }
look ls -l "$mount" "$mount/objects" | head -n 12 || true
shown=${ids[0]}
look ls -l "$mount/objects/$shown"
look cat "$mount/objects/$shown/info"
for index in $(look ls -U "$mount/objects/$shown/pages" | head -n 200 | sort -n | sed -n '1p;100p;200p'); do
    look ls -ls "$mount/objects/$shown/pages/$index"
    look getfattr --absolute-names -d -m '^user\.shrinkd\.' "$mount/objects/$shown/pages/$index"
    look xxd -l 48 "$mount/objects/$shown/pages/$index"
done

# ---------------------------------------------------------------- back
say "recovering all of it"
recovered=$(ctl recover --all --json)
after=$(states)
read -r _ _ still_out _ <<<"$after"
[ "$still_out" = 0 ] || fail "$still_out pages did not come back"

# ---------------------------------------------------------------- compare
say "comparing every page with its file"
compared=0 mismatches=0
for i in "${!files[@]}"; do
    ctl object read "${ids[$i]}" --output "$work/content" >/dev/null
    size=$(stat -L -c %s "${files[$i]}")
    compared=$((compared + (size + page - 1) / page))
    if [ "$(sha256sum <"$work/content")" != "${sums[$i]}" ]; then
        # Every byte that differs, by position; missing ones count as differing.
        truncate -s "$size" "$work/content"
        differing=$({ cmp -l "${files[$i]}" "$work/content" || true; } | awk -v page=$page '{print int(($1 - 1) / page)}' | uniq | wc -l)
        # The checksum says that they differ, so it is one page at least, even if the file itself has changed meanwhile.
        mismatches=$((mismatches + (differing > 0 ? differing : 1)))
        echo "differs: ${files[$i]} (object ${ids[$i]}), $differing pages"
    fi
done

rate() { jq -r --argjson pages "$2" '($pages * 4096 / 1073741824) / (.duration_ns / 1e9) * 100 | round / 100' <<<"$1"; }
row() { printf '%-10s %10s %10s %10s %10s\n' "$@"; }
say "result"
row pages resident zero backed-up empty
# shellcheck disable=SC2086 # four fields each
row before $before && row shrunk $during && row after $after
out_pages=$(jq '.backed_up_pages + .zero_pages' <<<"$shrunk")
printf 'out  %s GiB/s\nback %s GiB/s\n' "$(rate "$shrunk" "$out_pages")" "$(rate "$recovered" "$(jq .recovered_pages <<<"$recovered")")"
jq -r '"freed_bytes     \(.freed_bytes)\nstored_bytes    \(.stored_bytes)\nnet_freed_bytes \(.net_freed_bytes)"' <<<"$shrunk"
ctl pool destroy demo >/dev/null

say "stopping shrinkd"
kill -TERM "$daemon"
wait_for_end 60 || fail "shrinkd did not end"
wait "$daemon" || fail "shrinkd ended with status $?"
daemon=
! awk -v path="$mount" '$5 == path {found = 1} END {exit !found}' /proc/self/mountinfo || fail "the mount is still there"

echo
echo "verified: $compared pages, $mismatches mismatches"
[ "$mismatches" = 0 ] && [ "$compared" = "$pages" ]

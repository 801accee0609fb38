# shellcheck shell=bash
# A cache of what tests need from outside: what is in it, how a thing gets there once.
#
# Sourced with $cache set to the cache's folder. A thing is a folder of it with a file `.done` in it,
# which holds a digest of the recipe it was made by: a changed recipe makes it anew. It is made beside
# its place and renamed into it, so that a half-made one is never taken for whole.

shopt -s inherit_errexit

readonly NOT_TO_BE_HAD=77 # the exit code for "cannot be had here": skipped, not failed

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "${cache:?}/log"
cache=$(cd "$cache" && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Something this machine does not offer: a mirror, a package, a tool, a privilege.
not_here() {
    say "skipped: $*"
    exit "$NOT_TO_BE_HAD"
}

need() {
    local tool
    for tool; do
        command -v "$tool" >/dev/null || not_here "the program $tool is not installed"
    done
}

inputs=() # files a recipe reads, part of its digest

# once THING COMMAND...: runs the function COMMAND with $new, an empty folder, unless THING is
# there already. One process makes it while the others wait; a failure leaves nothing behind.
# Not to be called where bash ignores `set -e` (if, &&, ||): a recipe stops at its first failure.
once() {
    local thing=$1 status=0 started=$SECONDS recipe
    shift
    recipe=$( (echo "$*" && declare -f "$1" && cat /dev/null "${inputs[@]}") | sha256sum)
    is_done() { [ "$(cat "$cache/$thing/.done" 2>/dev/null)" = "$recipe" ]; }
    if is_done; then return 0; fi
    set +e
    (
        set -e
        flock 9
        if is_done; then exit 0; fi
        new=$cache/$thing.new
        rm -rf "$new" && mkdir -p "$new"
        trap 'rm -rf "$new"' EXIT
        inputs=()
        "$@"
        echo "$recipe" >"$new/.done"
        rm -rf "${cache:?}/$thing"
        mv "$new" "$cache/$thing"
    ) 9>"$cache/.lock-$thing"
    status=$?
    set -e
    [ "$status" = 0 ] || exit "$status"
    say "$thing is ready after $((SECONDS - started)) s"
}

# logged NAME COMMAND...: output to the cache's log, its end shown when the command fails.
logged() {
    local log=$cache/log/$1.log
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 25 "$log" >&2
        say "failed: $* (whole output in $log)"
        return 1
    fi
}

# Runs a command inside one of the unpacked Debian roots, the cache and the repository visible
# under their own names; nothing stays mounted after it. Needs root or user namespaces. With inside_by=exec
# this shell becomes the command, and whoever kills it has killed all of it.
inside() {
    local root=$cache/$1 ns=(--mount --pid --fork --kill-child)
    shift
    [ "$(id -u)" = 0 ] || ns+=(--map-root-user)
    need unshare
    # shellcheck disable=SC2016 # expanded by the inner shell
    ${inside_by:-} unshare "${ns[@]}" bash -euc '
        root=$1 repo=$2 cache=$3; shift 3
        mkdir -p "$root/proc" "$root/dev" "$root$repo" "$root$cache"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount --bind "$repo" "$root$repo"
        mount --bind "$cache" "$root$cache"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/usr/sbin:/bin HOME=/ LC_ALL=C "$@"
    ' inside "$root" "$repo" "$cache" "$@"
}

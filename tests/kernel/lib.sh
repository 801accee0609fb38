# shellcheck shell=bash
# The kernel tests' cache, and which Debian suite a leg is of. Sourced by fetch, build and qemu.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${JALAPENO_KERNEL_CACHE:-${CARGO_TARGET_DIR:-$here/../../target}/kernel}
# shellcheck source=../debian/cache.sh
. "$here/../debian/cache.sh"

# The Debian suite a leg's kernel and compiler come from.
suite_of() {
    case $1 in
    6.1 | 6.12) echo bookworm ;;
    newest) echo trixie ;;
    *) say "no such leg: $1 (6.1, 6.12, newest)" && exit 2 ;;
    esac
}

#!/bin/sh
# Prepares a fresh checkout, and does nothing in a prepared one: the pinned packages, and on request the native part.
#
#   sh tools/setup.sh [root] [native]
#
#   root    the command that follows needs uid 0
#   native  the command that follows needs build/syscalld, and dist, the compiled sources
#
# This is shell, not TypeScript, because it runs before the Node that can run TypeScript is there. Every check comes
# before the first effect; one that fails says in one line what is missing and how to get it.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "$1" >&2
  exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

want_root=
want_native=
for want in "$@"; do
  case $want in
    root) want_root=1 ;;
    native) want_native=1 ;;
    *) fail "cannot set up: found argument \"$want\"; need: root or native" ;;
  esac
done

[ "$(uname -s)" = Linux ] || fail "cannot run: found $(uname -s); need: Linux"
[ -z "$want_root" ] || [ "$(id -u)" = 0 ] || fail "cannot run: found uid $(id -u); need: root (sudo)"

# The packages are current when the lock file they were installed from is the one here. cksum is POSIX, and the stamp
# guards against staleness, not against an attacker.
stamp=node_modules/.installed-lock
lock=$(cksum <package-lock.json)
installed=
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$lock" ]; then installed=1; fi
if [ -z "$installed" ]; then
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "cannot install: found machine $(uname -m); need: x86_64 or aarch64 (the pinned Node exists for these)" ;;
  esac
  has node || fail 'cannot install: found no node; need: apt-get install nodejs npm (Node 20 or newer)'
  found=$(node -p 'process.versions.node')
  [ "${found%%.*}" -ge 20 ] || fail "cannot install: found Node $found; need: Node 20 or newer"
  has npm || fail 'cannot install: found no npm; need: apt-get install npm'
fi

if [ -n "$want_native" ]; then
  has gcc || fail 'cannot build: found no gcc; need: apt-get install gcc make'
  has make || fail 'cannot build: found no make; need: apt-get install gcc make'
  if [ ! -e build/syscalld ]; then
    # A wish, no need: with musl each command is 0.4 ms shorter in a virtual machine (native/Makefile).
    if ! has musl-gcc && has apt-get && [ "$(id -u)" = 0 ]; then
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends musl-tools >/dev/null 2>&1 ||
        echo 'building with glibc: found no package musl-tools to install' >&2
    fi
    probe=$(mktemp)
    trap 'rm -f "$probe"' EXIT
    printf '#include <stdio.h>\n#include <linux/types.h>\nint main(void) { return puts("") < 0; }\n' |
      gcc -static -x c -o "$probe" - 2>/dev/null ||
      fail 'cannot build: found no static C library; need: apt-get install libc6-dev'
  fi
fi

if [ -z "$installed" ]; then
  npm ci --ignore-scripts --loglevel=error >&2
  node_modules/.bin/node --version >/dev/null 2>&1 ||
    fail 'cannot run: found a pinned Node that does not start; need: a distribution with glibc 2.28 or newer'
  echo "$lock" >"$stamp"
fi
if [ -n "$want_native" ]; then
  make -C native -s
  make -s -f tools/compile.mk
fi

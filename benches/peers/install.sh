#!/bin/sh
# Installs what the peers need, on Debian and its derivatives.
set -e
packages="build-essential pkg-config libuv1-dev libevent-dev libsystemd-dev strace valgrind python3 util-linux"
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update
# shellcheck disable=SC2086
$sudo apt-get install -y --no-install-recommends $packages

#!/bin/sh
# Builds every server into target/c and target/release. A failure of one does not stop the others.
#   --iceoryx2   that too: slow to build
#   --gates      only what `compare --gates` needs beside the crate's own examples: the load
cd "$(dirname "$0")" || exit 1
mkdir -p target/c
failed=

c() {
    name=$1
    packages=$2
    flags=
    if [ -n "$packages" ]; then
        flags=$(pkg-config --cflags --libs "$packages") || { failed="$failed $name"; return; }
    fi
    # shellcheck disable=SC2086
    gcc -std=gnu11 -O2 -g -Wall -Wextra "c/$name.c" -o "target/c/$name" $flags || failed="$failed $name"
}

c pin ''
c burst ''
c queue ''
if [ "$1" = --gates ]; then
    [ -z "$failed" ]
    exit
fi
c epoll ''
c shm ''
c libuv libuv
c libevent libevent_core
c sdevent libsystemd

cargo build --release --locked --bins -j "${JOBS:-2}" || failed="$failed mio/tokio/calloop/monoio"
if [ "$1" = --iceoryx2 ]; then
    cargo build --release --locked --features iceoryx2 --bin iceoryx2 -j "${JOBS:-2}" || failed="$failed iceoryx2"
fi

if [ -n "$failed" ]; then
    echo "not built:$failed" >&2
    exit 1
fi

#!/bin/sh
# Starts a Valkey server or a sentinel of docker-compose.ha.yml: valkey.sh OPTION…
#
# The configuration file is in the container's volume and begins with $CONFIG. Servers and sentinels write into it who is
# primary, so that they still know it when all containers were made anew. Otherwise an old primary would start as primary
# again, without what it missed.
set -eu

if [ "$(id -u)" = 0 ]; then
    chown -R 999:999 /data
    exec setpriv --reuid=999 --regid=999 --clear-groups sh "$0" "$@"
fi
if [ ! -e /data/valkey.conf ]; then
    printf '%s\n' "$CONFIG" >/data/valkey.conf.new
    mv /data/valkey.conf.new /data/valkey.conf
fi
exec valkey-server /data/valkey.conf "$@"

#!/bin/sh
# Starts a Valkey server or a sentinel of docker-compose.ha.yml: valkey.sh OPTION…
#
# Its configuration file is in its volume and begins with $CONFIG. Sentinels write into it who is primary, so that it is
# still known when all containers were made anew: a server that began as primary by itself would drop what it missed.
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

#!/bin/sh
# valkey-cli as a user with all rights, in the container of a Valkey server: cli.sh [COMMAND…]
REDISCLI_AUTH=$(cat /tmp/admin)
export REDISCLI_AUTH
exec valkey-cli --user admin "$@"

#!/bin/sh
# Starts Grafana. The password of its user admin is random, unless WA_GRAFANA_PASSWORD gives one to begin with; it is made at
# the first start and kept in Grafana's volume.
set -eu

file=/var/lib/grafana/admin-password
if [ ! -s "$file" ]; then
    umask 077
    if [ -n "${WA_GRAFANA_PASSWORD-}" ]; then
        printf '%s' "$WA_GRAFANA_PASSWORD" >"$file"
    else
        od -An -N18 -tx1 /dev/urandom | tr -d ' \n' >"$file"
    fi
    # Of an older version, whose first password everybody knows.
    [ ! -e /var/lib/grafana/grafana.db ] || grafana cli admin reset-admin-password "$(cat "$file")"
fi
export GF_SECURITY_ADMIN_PASSWORD__FILE="$file"
unset WA_GRAFANA_PASSWORD
exec /run.sh

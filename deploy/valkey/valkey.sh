#!/bin/sh
# Starts a Valkey server or a sentinel of the compose files: valkey.sh OPTION…
#
# Receiver and workers have a user each, with the rights that they need (deploy/redis/users.acl) and a random password. The
# passwords are made at the first start and kept in the volume /passwords, which only servers and sentinels have. LOGIN is
# the URL for receiver and workers, with USER where user and password belong; each finds its own in a volume of its own.
# MORE_RIGHTS are further rights of the receiver.
#
# CONFIG is what the configuration file in the container's volume begins with, where there is to be one. Servers and
# sentinels write into it who is primary, so that they still know it when all containers were made anew. Otherwise an old
# primary would start as primary again, without what it missed.
set -eu

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

password() {  # USER: prints its password; when several servers make it at the same time, the first one wins
    if [ ! -e "/passwords/$1" ]; then
        random >"/passwords/$1.$(hostname)"
        ln "/passwords/$1.$(hostname)" "/passwords/$1" 2>/dev/null || true
        rm "/passwords/$1.$(hostname)"
    fi
    cat "/passwords/$1"
}

give() {  # FILE UID: FILE.new becomes FILE, for that user alone
    chown "$2:$2" "$1.new"
    mv "$1.new" "$1"
}

users() {  # all users with their passwords
    page=$(sed 's/&/\\&/g' /redis/page.acl)  # in what sed puts in, & would be what it found
    sed -e "/^user receiver /s/\$/ $page ${MORE_RIGHTS-}/" -e '/^user operator /d' /redis/users.acl >/tmp/users.acl.new
    cat /valkey/users.acl >>/tmp/users.acl.new
    admin=$(cat /tmp/admin)
    printf 's/change-me-%s/%s/\n' receiver "$receiver" worker "$worker" replica "$replica" sentinel "$sentinel" \
        admin "$admin" | sed -i -f - /tmp/users.acl.new  # not as arguments, which everybody on this machine can read
    case $(valkey-server --version) in
        *v=7.0*) sed -i 's/ +waitaof//; s/ +client|setinfo//' /tmp/users.acl.new ;;  # which Redis 7.0 does not know
    esac
    give /tmp/users.acl 999
}

login() {  # USER PASSWORD: its URL, where it looks for it
    if [ -d "/login/$1" ]; then
        printf '%s\n' "${LOGIN%%USER*}$1:$2${LOGIN#*USER}" >"/login/$1/redis-url.new"
        give "/login/$1/redis-url" 10001
    fi
}

if [ "$(id -u)" = 0 ]; then
    umask 077
    receiver=$(password receiver)
    worker=$(password worker)
    replica=$(password replica)
    sentinel=$(password sentinel)
    random >/tmp/admin  # for cli.sh
    users
    login receiver "$receiver"
    login worker "$worker"
    if [ "${1-}" = --sentinel ]; then
        printf 'sentinel auth-%s\n' "user wa sentinel" "pass wa $sentinel" >/tmp/logins.conf.new
    else
        printf '%s\n' "masteruser replica" "masterauth $replica" >/tmp/logins.conf.new
        set -- "$@" --aclfile /tmp/users.acl
    fi
    give /tmp/logins.conf 999
    chown -R 999:999 /data
    exec setpriv --reuid=999 --regid=999 --clear-groups sh "$0" "$@"
fi

umask 077
if [ -n "${CONFIG-}" ]; then
    if [ -e /data/valkey.conf ]; then
        sed -E '/^(user|masteruser|masterauth|aclfile|sentinel auth-(user|pass)) /d' /data/valkey.conf
    else
        printf '%s\n' "$CONFIG"
    fi >/data/valkey.conf.new
    cat /tmp/logins.conf >>/data/valkey.conf.new
    mv /data/valkey.conf.new /data/valkey.conf
    set -- /data/valkey.conf "$@"
fi
exec valkey-server "$@"

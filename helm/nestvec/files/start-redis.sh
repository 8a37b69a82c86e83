#!/bin/sh
# Starts Valkey with the rules of users.acl, the password of the Secret, and what the arguments say.
# Pod 0 is the primary; the others copy it.
set -eu
password=$(cat "$PASSWORD_FILE")
[ -n "$password" ] || { echo "$PASSWORD_FILE is empty" >&2; exit 1; }
hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
umask 077
sed "s/#HASH/#$hash/" "$ACL_FILE" >"$RUN_DIR/users.acl"
quoted=$(printf %s "$password" | sed 's/["\\]/\\&/g')
printf 'masteruser replica\nmasterauth "%s"\n' "$quoted" >"$RUN_DIR/valkey.conf"
if [ "$POD_INDEX" != 0 ]; then
    set -- "$@" --replicaof "$PRIMARY" 6379
fi
exec "$SERVER" "$RUN_DIR/valkey.conf" --aclfile "$RUN_DIR/users.acl" "$@"

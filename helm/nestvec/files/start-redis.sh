#!/bin/sh
# Starts Valkey with the rules of users.acl, the passwords of the Secret, and what the arguments say.
# Pod 0 is the primary; the others copy it. A file of PASSWORD_DIR has the password of those users
# whose line names it: #HASH-ingest is of the file ingest.
set -eu
umask 077
cp "$ACL_FILE" "$RUN_DIR/users.acl"
for name in $(sed -n 's/^user [^ ]* on #HASH-\([a-z]*\) .*/\1/p' "$ACL_FILE" | sort -u); do
    password=$(cat "$PASSWORD_DIR/$name") || { echo "the Secret has no key $name" >&2; exit 1; }
    [ -n "$password" ] || { echo "$PASSWORD_DIR/$name is empty" >&2; exit 1; }
    hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
    sed "s/ #HASH-$name / #$hash /" "$RUN_DIR/users.acl" >"$RUN_DIR/users.next"
    mv "$RUN_DIR/users.next" "$RUN_DIR/users.acl"
done
quoted=$(sed 's/["\\]/\\&/g' "$PASSWORD_DIR/password")
printf 'masteruser replica\nmasterauth "%s"\n' "$quoted" >"$RUN_DIR/valkey.conf"
if [ "$POD_INDEX" != 0 ]; then
    set -- "$@" --replicaof "$PRIMARY" 6379
fi
exec "$SERVER" "$RUN_DIR/valkey.conf" --aclfile "$RUN_DIR/users.acl" "$@"

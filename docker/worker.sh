#!/bin/sh
# `vigil-backfill "$@"`, told in the way Docker's restart policy understands, which knows only 0 and the rest:
# what is finished (0), wrong (2) or left with failed users (3) ends with 0, as another start would not help; what
# is temporary (5), and a process that was killed, ends as it is and is started again.
child=''
stopped=''
stop() {
    stopped=1
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT
vigil-backfill "$@" &
child=$!
[ -z "$stopped" ] || stop # a signal that came before there was a child to tell
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the child, which commits what it has
    wait "$child"
    code=$?
done
case $code in
2 | 3)
    echo "exit code $code: not started again (docs/exit-codes.md)" >&2
    exit 0
    ;;
esac
exit "$code"

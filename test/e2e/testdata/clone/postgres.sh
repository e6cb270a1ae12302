# A database server with its processes and shared memory, and three clients.
bin=$(dirname "$(readlink -f "$(command -v postgres)")")
as() { setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp "$@"; } # It refuses root.
mkdir -p /tmp/pg && chown 65534:65534 /tmp/pg
as "$bin/initdb" -D /tmp/pg/d -A trust --no-sync >/tmp/pg/init 2>&1 || { cat /tmp/pg/init; exit 1; }
as "$bin/postgres" -D /tmp/pg/d -k /tmp/pg -h '' -c fsync=off -c shared_buffers=2MB -c max_connections=20 >/tmp/pg/log 2>&1 &
ask() { "$bin/psql" -qAt -h /tmp/pg -U nobody postgres "$@"; }
until ask -c 'create table t (a int, b text)' >/dev/null 2>&1; do sleep 0.05; done
for k in 1 2 3; do
  for i in 1 2 3 4 5 6; do
    echo "begin; insert into t select $k*1000+g, md5('$k' || g) from generate_series($i*20, $i*20+19) g; select pg_sleep(0.01) is null; commit;"
  done | ask >/tmp/pg/$k 2>&1 &
done
wait %2 %3 %4
ask -c "select count(*), md5(string_agg(b, ',' order by a)) from t"
cat /tmp/pg/[123] | sort | uniq -c
kill -INT "$(head -n 1 /tmp/pg/d/postmaster.pid)"
wait %1
echo "ended $?"

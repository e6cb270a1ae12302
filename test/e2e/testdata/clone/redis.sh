cd /tmp
redis-server --port 6379 --unixsocket /tmp/redis.sock --save '' --appendonly no --daemonize yes --logfile /tmp/redis.log >/dev/null
until redis-cli ping >/dev/null 2>&1; do sleep 0.02; done
redis-benchmark -q -c 6 -n 1500 -t incr >/dev/null 2>/tmp/err || cat /tmp/err
redis-benchmark -q -s /tmp/redis.sock -c 6 -n 1500 -P 4 -t lpush >/dev/null 2>/tmp/err || cat /tmp/err
echo $(redis-cli get counter:__rand_int__) $(redis-cli -s /tmp/redis.sock llen mylist)
redis-cli shutdown nosave

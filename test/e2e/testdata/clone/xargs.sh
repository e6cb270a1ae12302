many=${SHORT:+20}; cd /tmp; mkdir x; seq 1 ${many:-60} | xargs -P 3 -I{} sh -c 'echo {} > x/{}; sleep 0.005'
find x -type f | xargs -n 5 -P 2 cat | sort -n | md5sum
for i in 1 2 3 4; do ( flock 9; n=$(cat n 2>/dev/null); sleep 0.02; echo $((n + i)) > n ) 9>l & done; wait; cat n
mkfifo p; (for i in 1 2 3 4 5; do echo $i; sleep 0.01; done > p) & while read -r n; do printf '%s.' "$n"; done < p; echo
timeout 5 sh -c 'sleep 0.1 & wait; echo done'; tar c x | gzip | gzip -d | tar t | wc -l

n=${SHORT:+20}; n=${n:-60}; set -m; (for i in $(seq 1 $n); do echo a$i; sleep 0.005; done) | tee /tmp/o1 | sort -V | tail -1 & (for i in $(seq 1 $n); do echo $i; sleep 0.004; done | awk '{s+=$1} END{print s}') > /tmp/o2 & wait; cat /tmp/o2; wc -l < /tmp/o1; cat <<X
heredoc $(date >/dev/null; echo ok)
X

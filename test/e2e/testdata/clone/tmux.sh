# A terminal multiplexer with two windows, and who types into them.
export TMUX_TMPDIR=/tmp HOME=/tmp TERM=xterm LC_ALL=C.UTF-8
tmux -f /dev/null new-session -d -s a -x 80 -y 24 'sh'
tmux new-window -t a 'sh'
for i in 1 2 3 4 5 6 7 8; do
  tmux send-keys -t a:0 "echo zero$i >>/tmp/zero" Enter
  tmux send-keys -t a:1 "echo one$i >>/tmp/one" Enter
  sleep 0.02
done
until [ "$(wc -l </tmp/zero)" = 8 ] && [ "$(wc -l </tmp/one)" = 8 ]; do sleep 0.01; done
tmux list-windows -t a -F '#{window_index} #{window_width}'
tmux kill-server
cat /tmp/zero /tmp/one | tr '\n' ' '
echo

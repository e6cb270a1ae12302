import os, random, select, time

import aios

random.seed(1)
clones = open("/aios/self/clones")
assert clones.readline() == "0 -\n"
aios.on_copy(lambda: print("copy:", end="", flush=True))
poll = select.poll()
poll.register(clones, select.POLLIN)
print("begun", flush=True)
while not os.path.exists("/tmp/go"):
    for _ in poll.poll(10):
        print(clones.readline().strip(), flush=True)
print(random.random())

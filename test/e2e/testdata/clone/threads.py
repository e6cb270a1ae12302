import hashlib, threading, time

res = [""] * 4

def work(i):
    h = hashlib.sha256()
    for k in range(4000):
        h.update(b"%d-%d" % (i, k))
        if k % 100 == 0:
            time.sleep(0.005)
    res[i] = h.hexdigest()[:8]

threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(res, flush=True)

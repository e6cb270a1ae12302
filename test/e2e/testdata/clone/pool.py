import concurrent.futures as cf, subprocess, sys, time
def work(n):
    time.sleep(0.01)
    return sum(i * i for i in range(n * 500))
if __name__ == '__main__':
    with cf.ProcessPoolExecutor(2) as p, cf.ThreadPoolExecutor(4) as t:
        a = list(p.map(work, range(20)))
        b = list(t.map(lambda n: subprocess.run(['sh', '-c', 'sleep 0.01; echo $((%d * 7))' % n], capture_output=True).stdout, range(8)))
    print(sum(a), b, flush=True)

import multiprocessing as mp, os
def f(q,l,v,n):
    for i in range(300):
        with l: v.value+=1
        q.put((n,i))
    q.put(None)
if __name__=='__main__':
    mp.set_start_method('fork')
    q=mp.Queue(); l=mp.Lock(); v=mp.Value('i',0,lock=False)
    ps=[mp.Process(target=f,args=(q,l,v,n)) for n in range(3)]
    [p.start() for p in ps]
    d=0; s=0
    while d<3:
        x=q.get()
        if x is None: d+=1
        else: s+=x[1]
    [p.join() for p in ps]
    print(s,v.value,[p.exitcode for p in ps],flush=True)

import multiprocessing as mp, time
def f(d,l,n):
    for i in range(200):
        d[(n,i)]=i*n
        with l: d['c']=d['c']+1
        if i%10==0: time.sleep(0.002)
if __name__=='__main__':
    mp.set_start_method('fork')
    m=mp.Manager(); d=m.dict(); d['c']=0; l=m.Lock()
    ps=[mp.Process(target=f,args=(d,l,n)) for n in range(2)]
    [p.start() for p in ps]; [p.join() for p in ps]
    print(d['c'],sum(v for k,v in d.items() if k!='c'),[p.exitcode for p in ps],flush=True)

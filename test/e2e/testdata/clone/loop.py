import asyncio
async def w(i):
    s=0
    for k in range(60):
        await asyncio.sleep(0.004); s+=k*i
    return s
async def main():
    p=await asyncio.create_subprocess_exec('sh','-c','for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.02; echo $i; done',stdout=asyncio.subprocess.PIPE)
    r=await asyncio.gather(*[w(i) for i in range(20)])
    o=(await p.communicate())[0]
    print(sum(r),o.split(),p.returncode,flush=True)
asyncio.run(main())

import sqlite3,time,os
os.chdir('/tmp')
c=sqlite3.connect('t.db',isolation_level=None)
c.execute('pragma journal_mode=wal' if os.environ.get('WAL') else 'pragma journal_mode=delete')
c.execute('create table t(a integer primary key,b)')
for k in range(15):
    c.execute('begin immediate')
    for i in range(40):
        c.execute('insert into t values(?,?)',(k*40+i,'x'*200)); 
        if i%10==0: time.sleep(0.001)
    c.execute('commit')
print(c.execute('select count(*),sum(a) from t').fetchall(),c.execute('pragma integrity_check').fetchall(),flush=True)

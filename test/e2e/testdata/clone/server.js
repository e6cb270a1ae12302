// A server, keep-alive clients, worker threads, and a process as a child.
const http = require('http'), { Worker, isMainThread, parentPort } = require('worker_threads'), { spawn } = require('child_process');
if (!isMainThread) {
  let sum = 0; for (let i = 0; i < 2e6; i++) sum = (sum + i * 7) % 1000003;
  let n = 0; parentPort.on('message', m => { n += m; if (m === 0) { parentPort.postMessage([sum, n]); parentPort.close(); } });
} else {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 3 });
  const server = http.createServer((q, r) => { let b = ''; q.on('data', d => b += d); q.on('end', () => setTimeout(() => r.end(String(b.length)), 3)); });
  const ask = i => new Promise((ok, no) => { const q = http.request({ port: server.address().port, host: '127.0.0.1', method: 'POST', agent }, r => { let b = ''; r.on('data', d => b += d); r.on('end', () => ok(+b)); }); q.on('error', no); q.end('x'.repeat(i * 100)); });
  const worker = new Promise(ok => { const w = new Worker(__filename); w.on('message', ok); for (let i = 1; i <= 10; i++) w.postMessage(i); w.postMessage(0); });
  const child = new Promise(ok => { const c = spawn('sh', ['-c', 'while read l; do echo "$l$l"; sleep 0.01; done']); let b = ''; c.stdout.on('data', d => b += d); c.on('close', code => ok(b.split('\n').join('') + code)); let i = 0; const t = setInterval(() => { c.stdin.write(`${i}\n`); if (++i == 8) { clearInterval(t); c.stdin.end(); } }, 12); });
  server.listen(0, '127.0.0.1', async () => {
    const all = await Promise.all([...Array(40).keys()].map(ask));
    console.log(all.reduce((a, b) => a + b), await worker, await child);
    agent.destroy(); server.close();
  });
}

const {exec}=require('child_process');const fs=require('fs');const crypto=require('crypto');
let n=0;let out='';
const t=setInterval(()=>{n++;fs.writeFileSync('/tmp/n',''+n);if(n==80){clearInterval(t);fin()}},5);
let pend=2;let res=[];
crypto.pbkdf2('a','b',300000,32,'sha256',(e,k)=>{res[0]=k.toString('hex').slice(0,8);fin()});
exec('for i in 1 2 3 4 5; do sleep 0.05; echo $i; done',(e,o)=>{res[1]=o.split('\n').join(',');fin()});
let c=0;function fin(){c++;if(c==3)console.log(n,res.join(' '))}

cd /tmp; mkdir -p www logs; seq 1 20000 > www/page
cat > nginx.conf <<END
worker_processes 2; pid /tmp/nginx.pid; error_log /tmp/logs/error; user root;
events { worker_connections 64; }
http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 127.0.0.1:8080; root /tmp/www; sendfile on; } }
END
nginx -c /tmp/nginx.conf 2>/dev/null || cat logs/error
until curl -s -o /dev/null http://127.0.0.1:8080/page; do sleep 0.02; done
for i in 1 2 3 4 5 6 7 8; do curl -s http://127.0.0.1:8080/page http://127.0.0.1:8080/page | cksum; done | uniq -c
nginx -c /tmp/nginx.conf -s quit 2>/dev/null

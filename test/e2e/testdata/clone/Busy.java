// Threads that compute, a selector that serves clients, a process, garbage.
import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.util.*;
import java.util.concurrent.*;

public class Busy {
  static long compute(int n) throws Exception {
    long h = n;
    Map<String, Integer> m = new ConcurrentHashMap<>();
    for (int i = 0; i < 60000; i++) {
      m.merge("k" + i % 997, i, Integer::sum);
      h = h * 31 + (i ^ n);
      if (i % 20000 == 0) Thread.sleep(3);
    }
    for (String k : new TreeSet<>(m.keySet())) h = h * 17 + m.get(k);
    return h;
  }

  static void serve(ServerSocketChannel l, Selector sel, int clients) throws IOException {
    while (clients > 0) {
      sel.select(50);
      for (Iterator<SelectionKey> it = sel.selectedKeys().iterator(); it.hasNext(); it.remove()) {
        SelectionKey k = it.next();
        if (k.isAcceptable()) {
          SocketChannel c = l.accept();
          if (c == null) continue;
          c.configureBlocking(false);
          c.register(sel, SelectionKey.OP_READ);
          continue;
        }
        SocketChannel c = (SocketChannel) k.channel();
        ByteBuffer b = ByteBuffer.allocate(256);
        if (c.read(b) < 0) {
          c.close();
          clients--;
        }
        for (b.flip(); b.hasRemaining(); ) c.write(b);
      }
    }
  }

  static long ask(int n, int port) throws Exception {
    long h = 0;
    try (Socket s = new Socket("127.0.0.1", port)) {
      for (int i = 0; i < 60; i++) {
        byte[] m = (n + " message " + i + "\n").getBytes();
        s.getOutputStream().write(m);
        for (byte b : s.getInputStream().readNBytes(m.length)) h = h * 31 + b;
        if (i % 7 == 0) Thread.sleep(2);
      }
    }
    return h;
  }

  public static void main(String[] args) throws Exception {
    ExecutorService four = Executors.newFixedThreadPool(4), more = Executors.newCachedThreadPool();
    List<Future<Long>> all = new ArrayList<>();
    for (int t = 0; t < 8; t++) {
      int n = t;
      all.add(four.submit(() -> compute(n)));
    }
    ServerSocketChannel l = ServerSocketChannel.open();
    l.bind(new InetSocketAddress("127.0.0.1", 0)).configureBlocking(false);
    Selector sel = Selector.open();
    l.register(sel, SelectionKey.OP_ACCEPT);
    int port = ((InetSocketAddress) l.getLocalAddress()).getPort();
    Future<?> server = more.submit(() -> { serve(l, sel, 3); return null; });
    for (int t = 0; t < 3; t++) {
      int n = t;
      all.add(more.submit(() -> ask(n, port)));
    }
    Process p = new ProcessBuilder("sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.02; done").start();
    String said = new String(p.getInputStream().readAllBytes()).replace("\n", "") + p.waitFor();
    long sum = 0;
    for (Future<Long> f : all) sum = sum * 13 + f.get();
    server.get();
    four.shutdown();
    more.shutdown();
    System.gc();
    System.out.println(sum + " " + said);
  }
}

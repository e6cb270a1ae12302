package control

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"sync"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// Client is the daemon's end of a connection to a kernel process. It is safe
// for concurrent use; requests overlap.
type Client struct {
	conn    conn
	onEvent func(method string, body json.RawMessage)
	done    chan struct{}

	mu      sync.Mutex
	next    uint64                   // +checklocks:mu
	pending map[uint64]chan *message // +checklocks:mu
	// Set once, when done closes.
	err error // +checklocks:mu
}

// Dial connects to a kernel process and exchanges Hello. onEvent is called
// for each pushed event, in order, on one goroutine; it must not call the
// Client. The caller closes the Client.
func Dial(ctx context.Context, socket, domain string, onEvent func(method string, body json.RawMessage)) (*Client, *HelloReply, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, errdefs.Wrap(err, errdefs.DomainDied, "connect to domain", errdefs.Resource(domain))
	}
	c := &Client{
		conn:    conn{c: nc.(*net.UnixConn)},
		onEvent: onEvent,
		done:    make(chan struct{}),
		pending: make(map[uint64]chan *message),
	}
	go c.read()
	var reply HelloReply
	if err := c.Call(ctx, MethodHello, Hello{Version: abi.ProtocolVersion, Domain: domain}, &reply); err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, &reply, nil
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection; pending calls fail.
func (c *Client) Close() error { return c.conn.c.Close() }

// Call sends a request with files, which stay the caller's, and decodes the
// response into reply unless that is nil. When ctx ends first the request
// goes on in the kernel process and its response is dropped.
func (c *Client) Call(ctx context.Context, method string, req, reply any, files ...*os.File) error {
	body, err := json.Marshal(req)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "encode "+method)
	}
	ch := make(chan *message, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.gone(method)
	}
	c.next++
	id := c.next
	c.pending[id] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()
	if err := c.conn.send(&message{ID: id, Method: method, Body: body}, files...); err != nil {
		select {
		case <-c.done:
			return c.gone(method)
		default:
			return err
		}
	}
	select {
	case m := <-ch:
		if m.Err != nil {
			return m.Err.error()
		}
		if reply == nil {
			return nil
		}
		if err := json.Unmarshal(m.Body, reply); err != nil {
			return errdefs.Wrap(err, errdefs.Protocol, "decode response to "+method)
		}
		return nil
	case <-ctx.Done():
		return errdefs.Wrap(ctx.Err(), errdefs.Cancelled, method)
	case <-c.done:
		return c.gone(method)
	}
}

// Notify sends a request that gets no response.
func (c *Client) Notify(method string, req any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "encode "+method)
	}
	return c.conn.send(&message{Method: method, Body: body})
}

func (c *Client) gone(method string) error {
	return errdefs.New(errdefs.DomainDied, "the kernel process went away", errdefs.Op(method))
}

func (c *Client) read() {
	for {
		m, files, err := c.conn.recv()
		closeAll(files) // No response carries files.
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			close(c.done)
			c.conn.c.Close()
			return
		}
		if m.ID == 0 {
			c.onEvent(m.Method, m.Body)
			continue
		}
		c.mu.Lock()
		ch := c.pending[m.ID]
		delete(c.pending, m.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- m
		}
	}
}

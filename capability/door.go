package capability

// Door is where a capability is used: an open file, a mount, a connection, a
// subscription. It must be comparable, as a pointer is.
type Door interface {
	// Revoke is called once when c has ended, after c.Live has become false.
	// Whoever revokes waits for it: it is quick, and blocks on nothing but
	// locks of its own. It must not change the Space.
	Revoke(c *Capability)
}

// Narrower is a Door that wants to hear when a capability shrinks in place.
type Narrower interface {
	Door
	// Narrowed is called after c.Spec has come to say less. The rules of
	// Revoke hold for it.
	Narrowed(c *Capability)
}

// Attach has d told when c ends. If c has ended already, it reports false and
// does not keep d. Attaching the same Door again changes nothing.
func (c *Capability) Attach(d Door) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Whoever ends c first says so and then takes the doors under c.mu.
	if !c.Live() {
		return false
	}
	c.doors.add(d)
	return true
}

// Detach forgets d, which is no longer used by c. If c is ending at this
// moment, d may be told nevertheless.
func (c *Capability) Detach(d Door) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doors.remove(d)
}

// takeDoors empties the set of doors.
func (c *Capability) takeDoors() []Door {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.doors.list
	c.doors = doorSet{}
	return list
}

// narrow tells the doors that want to know that c has shrunk.
func (c *Capability) narrow() {
	c.mu.Lock()
	var told []Narrower
	for _, d := range c.doors.list {
		if n, ok := d.(Narrower); ok {
			told = append(told, n)
		}
	}
	c.mu.Unlock()
	for _, n := range told {
		n.Narrowed(c)
	}
}

// doorSet is a set of doors that costs nothing while empty, little while
// small, and no search when large.
type doorSet struct {
	list  []Door
	index map[Door]int // of list; nil while the list is short
}

// fewDoors are searched one by one.
const fewDoors = 12

func (s *doorSet) find(d Door) int {
	if s.index != nil {
		if i, ok := s.index[d]; ok {
			return i
		}
		return -1
	}
	for i, o := range s.list {
		if o == d {
			return i
		}
	}
	return -1
}

func (s *doorSet) add(d Door) {
	if s.find(d) >= 0 {
		return
	}
	s.list = append(s.list, d)
	switch {
	case s.index != nil:
		s.index[d] = len(s.list) - 1
	case len(s.list) > fewDoors:
		s.index = make(map[Door]int, 2*len(s.list))
		for i, o := range s.list {
			s.index[o] = i
		}
	}
}

func (s *doorSet) remove(d Door) {
	i := s.find(d)
	if i < 0 {
		return
	}
	last := len(s.list) - 1
	moved := s.list[last]
	s.list[i], s.list[last] = moved, nil
	s.list = s.list[:last]
	if s.index != nil {
		s.index[moved] = i
		delete(s.index, d)
	}
	if last == 0 {
		*s = doorSet{}
	}
}

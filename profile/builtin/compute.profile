# Computation whose parts speak to each other: loopback sockets within the agent.
net:loopback

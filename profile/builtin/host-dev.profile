# Develops what runs on hosts: code in the current directory, and namespaces
# and mounts of its own, as container tools need them.
include coder
sys:namespace
sys:mount
sys:keys

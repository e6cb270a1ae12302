# Writes, runs and debugs code in the current directory.
include compute
fs:${PWD}:rw
proc:self:debug

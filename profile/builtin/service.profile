# Serves on loopback, with more processes than a tool needs.
include compute
proc:self:spawn+exec+signal,count=2048

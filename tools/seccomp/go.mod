module aios.dev/aios/tools/seccomp

go 1.26.3

require (
	aios.dev/aios v0.0.0
	github.com/seccomp/libseccomp-golang v0.11.1
	golang.org/x/sys v0.49.0
)

replace aios.dev/aios => ../..

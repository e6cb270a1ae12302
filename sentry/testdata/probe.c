// A program that makes the system calls that it reads from standard input, one
// on a line, and writes what each returned: a number and six arguments.
//
//	12        a number, in any base of C
//	$         what the call before returned
//	p         the program's own process ID
//	"text     a pointer to text, which has no spaces; " alone is empty
//	{1,2      a pointer to an array of 64-bit numbers
//
// It is static and makes no other calls that a gate could refuse.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Not libc's: the child of a vfork must not touch the stack.
static inline __attribute__((always_inline)) long sys(long nr, const long *a)
{
	long ret;
	register long r10 __asm__("r10") = a[3];
	register long r8 __asm__("r8") = a[4];
	register long r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "cmpl $1, %[forks]\n\t"
			 "jne 1f\n\t"
			 "mov $231, %%eax\n\t"
			 "xor %%edi, %%edi\n\t"
			 "syscall\n\t"
			 "1:"
			 : "=a"(ret)
			 : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9),
			   [forks] "r"(nr == 56 || nr == 57 || nr == 58 || nr == 435)
			 : "rcx", "r11", "memory");
	return ret;
}

static uint64_t arrays[64];

int main(void)
{
	static char line[1024], out[32];
	long last = 0;
	size_t used, n;
	for (;;) {
		for (n = 0; n < sizeof line - 1; n++)
			if (read(0, line + n, 1) != 1)
				return 0;
			else if (line[n] == '\n')
				break;
		line[n] = 0;
		long nr = 0, args[6] = {0};
		used = 0;
		int i = 0;
		for (char *w = strtok(line, " "); w && i <= 6; w = strtok(NULL, " "), i++) {
			long v;
			if (*w == '$')
				v = last;
			else if (*w == 'p')
				v = getpid();
			else if (*w == '"')
				v = (long)(w + 1);
			else if (*w == '{') {
				v = (long)(arrays + used);
				for (char *e = w; *e && used < 64; used++)
					arrays[used] = strtoull(e + 1, &e, 0);
			} else
				v = (long)strtoull(w, NULL, 0);
			if (i)
				args[i - 1] = v;
			else
				nr = v;
		}
		last = sys(nr, args);
		n = snprintf(out, sizeof out, "%ld\n", last);
		if (write(1, out, n) < 0)
			return 1;
	}
}

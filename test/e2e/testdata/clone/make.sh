cd /tmp; mkdir m; cd m
for i in 1 2 3 4 5 6; do echo "int f$i(int x){return x*$i;}" > f$i.c; done
cat > main.c <<'END'
#include <stdio.h>
int f1(int), f2(int), f3(int), f4(int), f5(int), f6(int);
int main(){printf("%d\n",f1(1)+f2(2)+f3(3)+f4(4)+f5(5)+f6(6));}
END
printf 'OBJ=f1.o f2.o f3.o f4.o f5.o f6.o main.o\nprog: $(OBJ)\n\tcc -o $@ $(OBJ)\n%%.o: %%.c\n\tcc -O1 -c $<\n' > Makefile
make -s -j2 && ./prog

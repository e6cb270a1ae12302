package gdbstub

// gdb numbers signals its own way, the same for every system.

// signalsOfGDB is the number of gdb by that of Linux, for the ordinary ones.
var signalsOfGDB = [32]byte{
	1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 10, 8: 8, 9: 9, 10: 30, 11: 11, 12: 31, 13: 13, 14: 14, 15: 15,
	// 16, SIGSTKFLT, gdb does not know.
	16: 143, 17: 20, 18: 19, 19: 17, 20: 18, 21: 21, 22: 22, 23: 16, 24: 24, 25: 25, 26: 26, 27: 27, 28: 28, 29: 23, 30: 32, 31: 12,
}

// unknownSignal is what gdb calls one that it does not know.
const unknownSignal = 143

// toGDB translates a signal of Linux.
func toGDB(sig int32) byte {
	switch {
	case sig >= 0 && int(sig) < len(signalsOfGDB):
		return signalsOfGDB[sig]
	case sig == 32:
		return 77
	case sig == 64:
		return 78
	case sig > 32 && sig < 64:
		return byte(sig - 33 + 45)
	}
	return unknownSignal
}

// fromGDB translates a signal of gdb, 0 if there is none.
func fromGDB(n uint64) int32 {
	switch {
	case n == 0 || n == unknownSignal:
		return 0
	case n == 77:
		return 32
	case n == 78:
		return 64
	case n >= 45 && n <= 75:
		return int32(n) - 45 + 33
	}
	for sig, of := range signalsOfGDB {
		if uint64(of) == n {
			return int32(sig)
		}
	}
	return 0
}

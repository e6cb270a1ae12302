package kdb

// Where XSAVE stores what, in bytes. Processors that never had MPX leave no gap
// for it; debuggers older than such processors know one layout only, and newer
// ones know it too, so that is what cores have.
const (
	xcr0Offset = 464 // where Linux and gVisor say what may be stored

	xcr0AVX512 = 0xe7 // x87, SSE, AVX and the three parts of AVX-512

	avxEnd                            = 832
	closeMask, closeZMM, closeHigh    = 832, 896, 1408 // without the gap
	closeEnd                          = 2432
	commonMask, commonZMM, commonHigh = 1088, 1152, 1664 // with it
	commonEnd                         = 2688
	maskLen, zmmLen, highLen          = 64, 512, 1024
)

// commonXState returns what XSAVE stored in the layout that debuggers know.
func commonXState(x []byte) []byte {
	if len(x) != closeEnd || le.Uint64(x[xcr0Offset:]) != xcr0AVX512 {
		return x
	}
	out := make([]byte, commonEnd)
	copy(out, x[:avxEnd])
	copy(out[commonMask:], x[closeMask:closeMask+maskLen])
	copy(out[commonZMM:], x[closeZMM:closeZMM+zmmLen])
	copy(out[commonHigh:], x[closeHigh:closeHigh+highLen])
	return out
}

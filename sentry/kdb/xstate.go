package kdb

// Where XSAVE stores what, in bytes. Processors that never had MPX leave no gap
// for it; debuggers older than such processors know one layout only, and newer
// ones know it too, so that is what cores have. Protection keys are the last part of
// either.
const (
	xcr0Offset = 464 // where Linux and gVisor say what may be stored

	xcr0AVX512 = 0xe0  // its three parts
	xcr0PKRU   = 0x200 // protection keys

	avxEnd                            = 832
	closeMask, closeZMM, closeHigh    = 832, 896, 1408 // without the gap
	closeEnd                          = 2432
	commonMask, commonZMM, commonHigh = 1088, 1152, 1664 // with it
	commonEnd                         = 2688
	maskLen, zmmLen, highLen, pkruLen = 64, 512, 1024, 8
)

// commonXState returns what XSAVE stored in the layout that debuggers know.
func commonXState(x []byte) []byte {
	if len(x) < avxEnd {
		return x
	}
	may, end, want := le.Uint64(x[xcr0Offset:]), len(x), 0
	if may&xcr0AVX512 == xcr0AVX512 {
		want = commonEnd
	}
	if may&xcr0PKRU != 0 {
		want = commonEnd + pkruLen
		end -= pkruLen
	}
	if len(x) >= want || end < avxEnd {
		return x
	}
	out := make([]byte, want)
	copy(out, x[:avxEnd])
	if may&xcr0AVX512 == xcr0AVX512 && end >= closeEnd {
		copy(out[commonMask:], x[closeMask:closeMask+maskLen])
		copy(out[commonZMM:], x[closeZMM:closeZMM+zmmLen])
		copy(out[commonHigh:], x[closeHigh:closeHigh+highLen])
	}
	copy(out[commonEnd:], x[end:])
	return out
}

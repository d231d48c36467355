// The floating-point mode of the calling thread, for the length of a scope.
//
// MXCSR belongs to a thread, and a caller may have changed his (torch.set_flush_denormal does, and so does any library
// linked with -ffast-math). So each kernel call states the whole mode it needs, bits set and bits cleared, and puts
// back what it found.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fpes {

class FpMode {
   public:
    // ftz: flush subnormal results (FTZ) and operands (DAZ). Otherwise IEEE 754. Always: round to nearest even, no
    // traps.
    explicit FpMode(bool ftz) : caller_(read()) { write(ftz ? plain | flush_bits : plain); }
    ~FpMode() { write(caller_); }
    FpMode(const FpMode&) = delete;
    FpMode& operator=(const FpMode&) = delete;

    // For callers whose scope isn't one of C++: the mode of the calling thread becomes IEEE 754, and what it was is
    // returned, to be put back.
    static std::uint64_t exchange_for_ieee() {
        const Register before = read();
        write(plain);
        return before;
    }
    static void put_back(std::uint64_t mode) { write(static_cast<Register>(mode)); }

    // The bits of the calling thread, for tests: set for good, and read.
    static void set_flush_bits(bool on) { write(on ? read() | flush_bits : read() & ~flush_bits); }
    static bool flush_bits_set() { return (read() & flush_bits) != 0; }

   private:
    // The barriers keep the compiler from moving a load above, or a store below, a change of mode; the kernels between
    // them are opaque calls that read and write memory, so no arithmetic can escape either.
#if defined(__x86_64__)
    using Register = unsigned;
    static constexpr Register plain = 0x1f80;       // all exceptions masked
    static constexpr Register flush_bits = 0x8040;  // FTZ | DAZ
    static Register read() { return _mm_getcsr(); }
    static void write(Register mode) {
        asm volatile("" ::: "memory");
        _mm_setcsr(mode);
        asm volatile("" ::: "memory");
    }
#elif defined(__aarch64__)
    // Only the baseline kernels run here, and they flush in software: the mode is IEEE always.
    using Register = std::uint64_t;
    static constexpr Register plain = 0;
    static constexpr Register flush_bits = 0;
    static Register read() {
        Register mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode)::"memory");
        return mode;
    }
    static void write(Register mode) { asm volatile("msr fpcr, %0" ::"r"(mode) : "memory"); }
#else
#error "fpes knows the floating-point control register of x86-64 and AArch64 only"
#endif

    Register caller_;
};

}  // namespace fpes

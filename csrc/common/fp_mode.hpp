// The floating-point mode of the calling thread, for the length of a scope.
//
// Each thread has its own MXCSR, and the caller's may be changed (by torch.set_flush_denormal, or by any library linked
// with -ffast-math). So each kernel call sets the whole mode that it needs, bits set and bits cleared, and restores the
// old mode.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fpes {

class FpMode {
   public:
    // ftz: flush subnormal results (FTZ) and operands (DAZ); otherwise IEEE 754. Both round to nearest even, without
    // traps.
    explicit FpMode(bool ftz) : caller_(read()) { write(of(ftz)); }
    ~FpMode() { write(caller_); }
    FpMode(const FpMode&) = delete;
    FpMode& operator=(const FpMode&) = delete;

    // For callers outside C++: sets the mode of the calling thread to IEEE 754, and returns the old mode for restoring.
    static std::uint64_t exchange_for_ieee() {
        const Register before = read();
        write(plain);
        return before;
    }
    static void put_back(std::uint64_t mode) { write(static_cast<Register>(mode)); }

    // For tests: set the flush bits of the calling thread permanently, and read them.
    static void set_flush_bits(bool on) { write(on ? read() | flush_bits : read() & ~flush_bits); }
    static bool flush_bits_set() { return (read() & flush_bits) != 0; }

   private:
    friend class KernelMode;
    // The barriers keep the compiler from moving a load above, or a store below, a change of mode; the kernels between
    // them are opaque calls that read and write memory, so no arithmetic can escape either.
#if defined(__x86_64__)
    using Register = unsigned;
    static constexpr Register plain = 0x1f80;       // all exceptions masked
    static constexpr Register flush_bits = 0x8040;  // FTZ | DAZ
    static constexpr Register flags = 0x3f;         // exceptions that have occurred
    static Register read() { return _mm_getcsr(); }
    static void write(Register mode) {
        asm volatile("" ::: "memory");
        _mm_setcsr(mode);
        asm volatile("" ::: "memory");
    }
#elif defined(__aarch64__)
    // Only the baseline kernels run here, and they flush in software, so the mode is always IEEE.
    using Register = std::uint64_t;
    static constexpr Register plain = 0;
    static constexpr Register flush_bits = 0;
    static constexpr Register flags = 0;
    static Register read() {
        Register mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode)::"memory");
        return mode;
    }
    static void write(Register mode) { asm volatile("msr fpcr, %0" ::"r"(mode) : "memory"); }
#else
#error "fpes knows the floating-point control register of x86-64 and AArch64 only"
#endif
    static constexpr Register of(bool ftz) { return ftz ? plain | flush_bits : plain; }

    Register caller_;
};

// The mode of one kernel. A kernel is called within the scope of an FpMode, mostly in the same mode, and to write the
// register takes as long as a short kernel. So this writes it only to change it, and leaves the flags of exceptions to
// the FpMode, which restores them.
class KernelMode {
   public:
    explicit KernelMode(bool ftz) : before_(FpMode::read()) {
        const FpMode::Register wanted = FpMode::of(ftz);
        changes_ = (before_ & ~FpMode::flags) != wanted;
        if (changes_) FpMode::write(wanted);
    }
    ~KernelMode() {
        if (changes_) FpMode::write(before_);
    }
    KernelMode(const KernelMode&) = delete;
    KernelMode& operator=(const KernelMode&) = delete;

   private:
    FpMode::Register before_;
    bool changes_;
};

}  // namespace fpes

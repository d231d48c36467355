// What this translation unit is compiled for, as a namespace.
//
// The headers in common/ and the kernels in cpu/ are compiled several times: once for each instruction set
// (cpu/isa/*.cpp) and once for each CUDA build. Each such file defines FPES_TARGET before its first include, and all
// its instantiations are in an inline namespace of that name. So the linker can never use the AVX-512 body of an inline
// function in place of the baseline body, or the ftz body in place of the ieee body. Plain data that files of several
// targets exchange (enums, structs without code) is in namespace fpes itself.
#pragma once

#ifndef FPES_TARGET
#define FPES_TARGET host
#endif

#define FPES_NAMESPACE_BEGIN \
    namespace fpes {         \
    inline namespace FPES_TARGET {
#define FPES_NAMESPACE_END \
    }                      \
    }

// FPES_INLINE: a small function that must be inlined into its caller, on the host and on the device.
// FPES_IN_KERNEL: the same for a function that calls its arguments, which on the device are device-only code.
#if defined(__CUDACC__)
#define FPES_INLINE __host__ __device__ __forceinline__
#define FPES_IN_KERNEL __device__ __forceinline__
#else
#define FPES_INLINE inline __attribute__((always_inline))
#define FPES_IN_KERNEL FPES_INLINE
#endif

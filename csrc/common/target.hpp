// What this translation unit is compiled for, as a namespace.
//
// The headers in common/ and the kernels in cpu/ are compiled several times: once for each instruction set
// (cpu/isa/*.cpp) and once for each CUDA build. Each such file defines FPES_TARGET before its first include, and all
// that it instantiates lives in an inline namespace of that name. So the linker can never put the AVX-512 body of an
// inline function where the baseline one was meant, nor the ftz body where the ieee one was. Plain data that files of
// several targets hand to each other (enums, structs without code) lives in namespace fpes itself.
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

// FPES_INLINE: a function small enough that it must vanish into its caller, on the host and on the device alike.
// FPES_IN_KERNEL: the same, of one that calls what it is handed, which on the device is code for the device alone.
#if defined(__CUDACC__)
#define FPES_INLINE __host__ __device__ __forceinline__
#define FPES_IN_KERNEL __device__ __forceinline__
#else
#define FPES_INLINE inline __attribute__((always_inline))
#define FPES_IN_KERNEL FPES_INLINE
#endif

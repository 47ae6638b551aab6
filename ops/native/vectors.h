// Vectors of the widest registers that the compiler is told of, and the shapes made of them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

// 32 registers hold larger tiles of a product than 16 do.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool MANY_REGISTERS = true;
#else
constexpr bool MANY_REGISTERS = false;
#endif

template <class T>
struct Simd;

template <>
struct Simd<float> {
    typedef float Vector __attribute__((vector_size(BYTES)));
    typedef int32_t Integers __attribute__((vector_size(BYTES)));
    typedef uint8_t Octets __attribute__((vector_size(BYTES / sizeof(float))));
};

template <>
struct Simd<double> {
    typedef double Vector __attribute__((vector_size(BYTES)));
    typedef int64_t Integers __attribute__((vector_size(BYTES)));
    typedef uint8_t Octets __attribute__((vector_size(BYTES / sizeof(double))));
};

template <class T>
using Vector = typename Simd<T>::Vector;

// The number of values of a vector.
template <class T>
constexpr int LANES = BYTES / sizeof(T);

template <class T>
inline Vector<T> load(const T* from) {
    Vector<T> values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

template <class T>
inline void store(T* to, Vector<T> values) {
    std::memcpy(to, &values, sizeof values);
}

template <class T>
inline Vector<T> splat(T value) {
    return value - Vector<T>{};
}

inline int round_up(int value, int step) { return (value + step - 1) / step * step; }

// Memory, and weights in the order that the loops read them in.
#pragma once

#include <memory>

#include "convolution.h"

constexpr double EPSILON = 1e-5, MOMENTUM = 0.1;  // of batch norm, as in ops/mixing.py

// Memory that begins at a line of the cache, filled with zeros.
template <class T>
struct Buffer {
    std::unique_ptr<char[]> memory;
    T* data = nullptr;
    size_t size = 0;

    Buffer() = default;
    explicit Buffer(size_t values) : memory(new char[(values + 64) * sizeof(T) + 64]()), size(values) {
        const auto address = reinterpret_cast<uintptr_t>(memory.get());
        data = reinterpret_cast<T*>((address + 63) / 64 * 64);
    }
};

// The depthwise weight [count, taps] of a convolution as [taps, unit].
template <class T>
void pack_depthwise(const T* weight, int taps, const Channels& channels, T* packed) {
    for (int t = 0; t < taps; t++)
        for (int i = 0; i < channels.unit; i++) {
            const int c = i % channels.padded;
            packed[t * channels.unit + i] = c < channels.count ? weight[c * taps + t] : 0;
        }
}

// One tap of the weight [outs, ins, taps] of a convolution as [ins, unit of outs], or, transposed, as [outs, unit of ins];
// `channels` are those of the unit, and `first` is the number of the first out among them.
template <class T>
void pack_matrix(const T* weight, int outs, int ins, int taps, int tap, bool transposed, int first, const Channels& channels,
                 T* packed) {
    const int rows = transposed ? outs : ins, columns = transposed ? ins : outs;
    const ptrdiff_t row_step = transposed ? static_cast<ptrdiff_t>(ins) * taps : taps;
    const ptrdiff_t column_step = transposed ? taps : static_cast<ptrdiff_t>(ins) * taps;
    for (int row = 0; row < rows; row++)
        for (int start = 0; start < channels.unit; start += channels.padded) {
            T* to =
                packed + static_cast<size_t>(row + (transposed ? first : 0)) * channels.unit + start + (transposed ? 0 : first);
            for (int c = 0; c < columns; c++) to[c] = weight[row * row_step + c * column_step + tap];
        }
}

// An entry of the gradient that `outer` leaves, [outs, unit of ins].
template <class T>
T entry_of(const T* sums, int out, int in, const Channels& channels) {
    T value = 0;
    for (int start = 0; start < channels.unit; start += channels.padded)
        value += sums[static_cast<size_t>(out) * channels.unit + start + in];
    return value;
}

template <class T>
void add_all(const Buffer<T>& from, Buffer<T>& to) {
    for (size_t v = 0; v < from.size; v++) to.data[v] += from.data[v];
}

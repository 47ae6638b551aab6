// Convolutions of one image at a time, on maps that lie in grids.
//
// A grid is a map with a border of zeros, so that no tap needs a test. Its values lie pixel by pixel, all channels of a
// pixel together, padded so that vectors fit: to a multiple of the vector, or, where several pixels share a vector, to
// a divisor of it. For operations of stride 2 the even columns of each row come first and then the odd ones, so that
// neighbouring outputs read neighbouring inputs there, too.
//
// Positions are vectors of outputs: one pixel, or a group of them that shares a vector. An operation is a list of taps;
// it is computed for many positions by adding the offset of a tap to the offsets of the positions. The gradient of the
// input is the same with other offsets: for each of the stride x stride phases of the input, its positions and those of
// the taps that reach it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "vectors.h"

// The number of positions that are computed together: enough independent sums to hide the latency of one.
constexpr int TOGETHER = 8;

// Copies `length` values; calls of memcpy would take longer than the few values of a pixel.
template <class T>
inline void copy(const T* from, int length, T* to) {
    constexpr int lanes = LANES<T>;
    int i = 0;
    for (; i + lanes <= length; i += lanes) store(to + i, load(from + i));
    for (; i < length; i++) to[i] = from[i];
}

struct Channels {
    int count;   // as the maps have them
    int padded;  // as the grids have them
    int group;   // pixels that share a vector
    int unit;    // values of a position
    int blocks;  // vectors of a position

    // `alone`: pixels share no vectors, however few channels there are.
    template <class T>
    static Channels of(int count, bool alone = false) {
        constexpr int lanes = LANES<T>;
        if (count >= lanes || alone) {
            int padded = round_up(count, lanes);
            return {count, padded, 1, padded, padded / lanes};
        }
        int padded = 1;
        while (padded < count) padded *= 2;
        return {count, padded, lanes / padded, lanes, 1};
    }
};

// Offsets of positions, filled up to a multiple of TOGETHER by repeating the last one.
struct Positions {
    std::vector<int> at;
    int count = 0;

    void add(int offset) { at.push_back(offset), count++; }
    void fill() {
        while (!at.empty() && at.size() % TOGETHER) at.push_back(at.back());
    }
};

// Displacement of a tap from the pixel stride * (y, x) of the input.
struct Displacement {
    int down, right;
};

struct Tap {
    int offset;  // to be added to that of a position
    int weight;  // its number
};

// The batch norm of a map: (value - mean) * factor + term, as periods.
template <class T>
struct Normaliser {
    std::vector<T> means, factors, terms;
};

struct Geometry {
    int height, width, out_height, out_width, stride, border;
    Channels channels;
    int columns;              // of outputs, a multiple of the group
    int half;                 // values of a row of one column phase
    int pitch;                // values of a row of the grid
    int size;                 // values of the grid
    int out_pitch, out_size;  // of a grid of outputs
    Positions reads;          // of the outputs, in the grid of the input
    Positions writes;         // of the outputs, in a grid of outputs
    Positions compact;        // of the outputs, one behind the other
    struct Phase {
        Positions inputs, outputs;  // in the grid of the input, in a grid of outputs
        int down, right;            // parity of its pixels
    };
    std::vector<Phase> phases;

    Geometry(int height, int width, int stride, int border, Channels channels)
        : height(height), width(width), stride(stride), border(border), channels(channels) {
        out_height = (height + stride - 1) / stride, out_width = (width + stride - 1) / stride;
        const int padded = channels.padded, group = channels.group;
        columns = round_up(out_width, group);
        half = (stride == 1 ? columns + 2 * border : columns + border + 1) * padded;
        pitch = half * stride;
        const int rows = stride == 1 ? height + 2 * border : 2 * out_height + 2 * border;
        size = round_up((rows + 1) * pitch, 64);
        out_pitch = (columns + 2 * border + group) * padded;
        out_size = round_up((out_height + 2 * border + 1) * out_pitch, 64);
        for (int y = 0; y < out_height; y++)
            for (int x = 0; x < columns; x += group) {
                compact.add(compact.count * channels.unit);
                reads.add(y * stride * pitch + x * padded);
                writes.add(out_at(y, x));
            }
        for (Positions* positions : {&reads, &writes, &compact}) positions->fill();
        for (int down = 0; down < stride; down++)
            for (int right = 0; right < stride; right++) {
                Phase phase;
                phase.down = down, phase.right = right;
                for (int y = 0; stride * y + down < height; y++)
                    for (int x = 0; stride * x + right < width; x += group) {
                        phase.inputs.add(in_at(stride * y + down, stride * x + right));
                        phase.outputs.add(out_at(y, x));
                    }
                phase.inputs.fill(), phase.outputs.fill();
                phases.push_back(std::move(phase));
            }
    }

    // The offset of a pixel in the grid of the input; it may lie on the border.
    int in_at(int y, int x) const {
        const int row = (y + border) * pitch, column = x + border;
        return stride == 1 ? row + column * channels.padded : row + (column & 1) * half + (column >> 1) * channels.padded;
    }

    // The offset of a pixel in a grid of outputs.
    int out_at(int y, int x) const { return (y + border) * out_pitch + (x + border) * channels.padded; }

    std::vector<Tap> taps(const std::vector<Displacement>& displacements) const {
        std::vector<Tap> taps;
        for (size_t index = 0; index < displacements.size(); index++)
            taps.push_back({in_at(displacements[index].down, displacements[index].right), static_cast<int>(index)});
        return taps;
    }

    // The taps that reach the input's pixels of a phase, as offsets in a grid of outputs.
    std::vector<Tap> taps_back(const std::vector<Displacement>& displacements, const Phase& phase) const {
        std::vector<Tap> taps;
        for (size_t index = 0; index < displacements.size(); index++) {
            const int down = phase.down - displacements[index].down, right = phase.right - displacements[index].right;
            if (down % stride || right % stride) continue;
            taps.push_back({down / stride * out_pitch + right / stride * channels.padded, static_cast<int>(index)});
        }
        return taps;
    }

    // Calls body(place in a map [height, width, count], place in the grid, number of values) for runs of values that lie
    // one behind the other in both.
    template <class Body>
    inline void each_run(Body body) const {
        const int count = channels.count;
        if (stride == 1 && count == channels.padded) {
            for (int y = 0; y < height; y++) body(static_cast<size_t>(y) * width * count, in_at(y, 0), width * count);
            return;
        }
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++) body((static_cast<size_t>(y) * width + x) * count, in_at(y, x), count);
    }

    // Copies a map [height, width, count] into the grid: normalised if there is a batch norm, then rectified if wanted. The
    // border stays as it is.
    template <class T, bool RECTIFY>
    void fill(const T* map, const Normaliser<T>* norm, T* grid) const {
        constexpr int lanes = LANES<T>;
        auto fill_run = [&](const T* from, int length, T* to) {
            int i = 0;
            for (; i + lanes <= length; i += lanes) {
                Vector<T> values = load(from + i);
                if (norm) values = (values - load(&norm->means[i])) * load(&norm->factors[i]) + load(&norm->terms[i]);
                if (RECTIFY) values = values < Vector<T>{} ? Vector<T>{} : values;
                store(to + i, values);
            }
            for (; i < length; i++) {
                const T value = norm ? (from[i] - norm->means[i]) * norm->factors[i] + norm->terms[i] : from[i];
                to[i] = RECTIFY && value < 0 ? 0 : value;
            }
        };
        const int longest = norm ? static_cast<int>(norm->means.size()) : pitch;
        each_run([&](size_t place, int at, int length) {
            for (int start = 0; start < length; start += longest)
                fill_run(map + place + start, std::min(longest, length - start), grid + at + start);
        });
    }

    // Whether outputs that lie one behind the other are a map [out_height, out_width, count].
    bool is_map() const { return channels.count == channels.padded && columns == out_width; }

    template <class T>
    void to_map(const T* compact, T* map) const {
        for (int y = 0; y < out_height; y++)
            for (int x = 0; x < out_width; x++)
                copy(compact + (static_cast<size_t>(y) * columns + x) * channels.padded, channels.count,
                     map + (static_cast<size_t>(y) * out_width + x) * channels.count);
    }

    template <class T>
    void from_map(const T* map, T* compact) const {
        for (int y = 0; y < out_height; y++)
            for (int x = 0; x < out_width; x++)
                copy(map + (static_cast<size_t>(y) * out_width + x) * channels.count, channels.count,
                     compact + (static_cast<size_t>(y) * columns + x) * channels.padded);
    }
};

// out (+)= the sum over taps of weight * in, value by value; the weights of a tap are a position's values.
template <class T, bool ADD>
void depthwise(const T* in, const Positions& from, T* out, const Positions& to, const std::vector<Tap>& taps, const T* weights,
               const Channels& channels) {
    constexpr int lanes = LANES<T>;
    const int count = static_cast<int>(from.at.size()), length = static_cast<int>(taps.size());
    for (int start = 0; start < count; start += TOGETHER) {
        const T* pixel[TOGETHER];
        for (int m = 0; m < TOGETHER; m++) pixel[m] = in + from.at[start + m];
        for (int block = 0; block < channels.blocks; block++) {
            Vector<T> sums[TOGETHER];
            for (int m = 0; m < TOGETHER; m++) sums[m] = ADD ? load(out + to.at[start + m] + block * lanes) : Vector<T>{};
            for (int t = 0; t < length; t++) {
                const Vector<T> weight = load(weights + taps[t].weight * channels.unit + block * lanes);
                const ptrdiff_t offset = taps[t].offset + block * lanes;
                for (int m = 0; m < TOGETHER; m++) sums[m] += load(pixel[m] + offset) * weight;
            }
            for (int m = 0; m < TOGETHER; m++) store(out + to.at[start + m] + block * lanes, sums[m]);
        }
    }
}

// The gradient of the weights of K x K taps, added to weights [K * K, unit]: in * gradient, summed over positions.
// rows and columns are the offsets of the taps.
template <class T, int K>
void correlate(const T* in, const Positions& from, const T* gradient, const Positions& at, const std::vector<Tap>& taps,
               T* weights, const Channels& channels) {
    constexpr int lanes = LANES<T>;
    // As many rows of taps at a time as the registers hold.
    constexpr int ROWS = MANY_REGISTERS ? (K * K <= 25 ? K : 25 / K) : std::max(1, 12 / K);
    ptrdiff_t rows[K], columns[K];
    for (int i = 0; i < K; i++) rows[i] = taps[i * K].offset, columns[i] = taps[i].offset - taps[0].offset;
    for (int block = 0; block < channels.blocks; block++)
        for (int first = 0; first < K; first += ROWS) {
            Vector<T> sums[ROWS][K];
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < K; j++)
                    sums[i][j] =
                        first + i < K ? load(weights + ((first + i) * K + j) * channels.unit + block * lanes) : Vector<T>{};
            for (int p = 0; p < from.count; p++) {
                const Vector<T> g = load(gradient + at.at[p] + block * lanes);
                const T* pixel = in + from.at[p] + block * lanes;
                for (int i = 0; i < ROWS; i++) {
                    const T* row = pixel + rows[std::min(first + i, K - 1)];
                    for (int j = 0; j < K; j++) sums[i][j] += load(row + columns[j]) * g;
                }
            }
            for (int i = 0; i < ROWS && first + i < K; i++)
                for (int j = 0; j < K; j++) store(weights + ((first + i) * K + j) * channels.unit + block * lanes, sums[i][j]);
        }
}

// values[lanes[0]], values[lanes[1]], ...
template <class T>
inline Vector<T> shuffle(Vector<T> values, typename Simd<T>::Integers lanes) {
#if defined(__clang__)
    Vector<T> shuffled;
    for (int lane = 0; lane < LANES<T>; lane++) shuffled[lane] = values[lanes[lane]];
    return shuffled;
#else
    return __builtin_shuffle(values, lanes);
#endif
}

// The permutation that gives all channels of a pixel its channel number `channel`.
template <class T>
inline typename Simd<T>::Integers spread_of(int channel, const Channels& channels) {
    typename Simd<T>::Integers lanes{};
    for (int lane = 0; lane < LANES<T>; lane++) lanes[lane] = lane / channels.padded * channels.padded + channel;
    return lanes;
}

// out (+)= the sum over taps and channels of in[channel] * matrix[tap, channel, :], for NB vectors of outputs.
template <class T, bool ADD, int NB>
void product_of(const T* in, const Positions& from, T* out, const Positions& to, const std::vector<Tap>& taps,
                const T* matrices, int ins, const Channels& outs, int block) {
    constexpr int lanes = LANES<T>;
    const int count = static_cast<int>(from.at.size());
    for (int start = 0; start < count; start += TOGETHER) {
        Vector<T> sums[TOGETHER][NB];
        for (int m = 0; m < TOGETHER; m++)
            for (int b = 0; b < NB; b++) sums[m][b] = ADD ? load(out + to.at[start + m] + (block + b) * lanes) : Vector<T>{};
        for (const Tap& tap : taps) {
            const T* pixel[TOGETHER];
            for (int m = 0; m < TOGETHER; m++) pixel[m] = in + from.at[start + m] + tap.offset;
            const T* matrix = matrices + static_cast<size_t>(tap.weight) * ins * outs.unit + block * lanes;
            for (int channel = 0; channel < ins; channel++, matrix += outs.unit) {
                Vector<T> row[NB];
                for (int b = 0; b < NB; b++) row[b] = load(matrix + b * lanes);
                for (int m = 0; m < TOGETHER; m++)
                    for (int b = 0; b < NB; b++) sums[m][b] += pixel[m][channel] * row[b];
            }
        }
        for (int m = 0; m < TOGETHER; m++)
            for (int b = 0; b < NB; b++) store(out + to.at[start + m] + (block + b) * lanes, sums[m][b]);
    }
}

// out (+)= the sum over taps and channels of in[channel] * matrix[tap, channel, :]; matrices are [taps, ins, unit of outs],
// where pixels share a vector repeated for each of them. There the ins are as many as the outs.
template <class T, bool ADD>
void product(const T* in, const Positions& from, T* out, const Positions& to, const std::vector<Tap>& taps, const T* matrices,
             int ins, const Channels& outs) {
    if (outs.group == 1) {
        for (int block = 0; block < outs.blocks;) {
            const int left = outs.blocks - block, together = left == 1 || (left == 3 && MANY_REGISTERS) ? left : 2;
            if (together == 1) product_of<T, ADD, 1>(in, from, out, to, taps, matrices, ins, outs, block);
            if (together == 2) product_of<T, ADD, 2>(in, from, out, to, taps, matrices, ins, outs, block);
            if (together == 3) product_of<T, ADD, 3>(in, from, out, to, taps, matrices, ins, outs, block);
            block += together;
        }
        return;
    }
    const int count = static_cast<int>(from.at.size());
    for (int start = 0; start < count; start += TOGETHER) {
        Vector<T> sums[TOGETHER];
        for (int m = 0; m < TOGETHER; m++) sums[m] = ADD ? load(out + to.at[start + m]) : Vector<T>{};
        for (const Tap& tap : taps) {
            Vector<T> values[TOGETHER];
            for (int m = 0; m < TOGETHER; m++) values[m] = load(in + from.at[start + m] + tap.offset);
            const T* matrix = matrices + static_cast<size_t>(tap.weight) * ins * outs.unit;
            for (int channel = 0; channel < ins; channel++, matrix += outs.unit) {
                const auto lanes = spread_of<T>(channel, outs);
                const Vector<T> row = load(matrix);
                for (int m = 0; m < TOGETHER; m++) sums[m] += shuffle<T>(values[m], lanes) * row;
            }
        }
        for (int m = 0; m < TOGETHER; m++) store(out + to.at[start + m], sums[m]);
    }
}

// sums[out channel, :] += gradient[out channel] * in[:], summed over positions, for X channels and NB vectors.
template <class T, int X, int NB>
void outer_of(const T* in, const Positions& from, ptrdiff_t offset, const T* gradient, const Positions& at, T* sums,
              const Channels& channels, int first, int block) {
    constexpr int lanes = LANES<T>;
    Vector<T> totals[X][NB];
    for (int m = 0; m < X; m++)
        for (int b = 0; b < NB; b++) totals[m][b] = load(sums + (first + m) * channels.unit + (block + b) * lanes);
    for (int p = 0; p < from.count; p++) {
        const T* pixel = in + from.at[p] + offset + block * lanes;
        const T* scalars = gradient + at.at[p] + first;
        Vector<T> values[NB];
        for (int b = 0; b < NB; b++) values[b] = load(pixel + b * lanes);
        for (int m = 0; m < X; m++)
            for (int b = 0; b < NB; b++) totals[m][b] += scalars[m] * values[b];
    }
    for (int m = 0; m < X; m++)
        for (int b = 0; b < NB; b++) store(sums + (first + m) * channels.unit + (block + b) * lanes, totals[m][b]);
}

// The gradient of the matrices of `product`, added to sums [taps, padded (outs), unit of ins].
template <class T>
void outer(const T* in, const Positions& from, const std::vector<Tap>& taps, const T* gradient, const Positions& at, T* sums,
           const Channels& ins, const Channels& outs) {
    constexpr int WIDE = MANY_REGISTERS ? 8 : 4;
    for (const Tap& tap : taps) {
        T* own = sums + static_cast<size_t>(tap.weight) * outs.padded * ins.unit;
        if (ins.group == 1) {
            // A padded number of channels is a multiple of LANES, and so of 4 or 8, save for vectors of two.
            for (int first = 0; first < outs.padded; first += WIDE) {
                const int wide = std::min(WIDE, outs.padded - first);
                int block = 0;
                for (; wide == WIDE && block + 2 <= ins.blocks; block += 2)
                    outer_of<T, WIDE, 2>(in, from, tap.offset, gradient, at, own, ins, first, block);
                for (; block < ins.blocks; block++) {
                    if (wide == WIDE)
                        outer_of<T, WIDE, 1>(in, from, tap.offset, gradient, at, own, ins, first, block);
                    else
                        for (int m = 0; m < wide; m++)
                            outer_of<T, 1, 1>(in, from, tap.offset, gradient, at, own, ins, first + m, block);
                }
            }
            continue;
        }
        for (int first = 0; first < ins.padded; first += 4) {
            constexpr int wide = 4;  // a padded number below 4 repeats its channels, which changes nothing
            Vector<T> totals[wide];
            typename Simd<T>::Integers lanes[wide];
            for (int m = 0; m < wide; m++) {
                lanes[m] = spread_of<T>((first + m) % ins.padded, ins);
                totals[m] = load(own + (first + m) % ins.padded * ins.unit);
            }
            for (int p = 0; p < from.count; p++) {
                const Vector<T> scalars = load(gradient + at.at[p]), values = load(in + from.at[p] + tap.offset);
                for (int m = 0; m < wide; m++) totals[m] += shuffle<T>(scalars, lanes[m]) * values;
            }
            for (int m = 0; m < wide; m++) store(own + (first + m) % ins.padded * ins.unit, totals[m]);
        }
    }
}

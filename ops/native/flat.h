// Work on whole maps, value by value: sums over pixels, batch norm, its gradient.
//
// A map [pixels, channels] is one run of values. The numbers of each channel are written out to a period, which is a
// multiple of the channels and of four vectors, so that no loop needs to know where a pixel ends.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "vectors.h"

constexpr int FOUR = 4;

template <class T>
int period_of(int channels) {
    return std::lcm(channels, FOUR * LANES<T>);
}

// Writes the numbers of `channels` channels out to a period, each times `scale`.
template <class T>
void write_period(const T* numbers, int channels, T scale, T* period) {
    const int length = period_of<T>(channels);
    for (int c = 0; c < channels; c++) period[c] = scale * numbers[c];
    for (int done = channels; done < length; done *= 2)
        std::memcpy(period + done, period, std::min(done, length - done) * sizeof(T));
}

// Adds sums over a period's places to sums over channels.
template <class T, class Sum>
void fold_period(const T* period, int channels, Sum* sums) {
    constexpr int lanes = LANES<T>;
    const int length = period_of<T>(channels);
    if (lanes % channels == 0) {
        Vector<T> total{};
        for (int i = 0; i < length; i += lanes) total += load(period + i);
        T values[lanes];
        store(values, total);
        for (int start = 0; start < lanes; start += channels)
            for (int c = 0; c < channels; c++) sums[c] += values[start + c];
        return;
    }
    for (int start = 0; start < length; start += channels)
        for (int c = 0; c < channels; c++) sums[c] += period[start + c];
}

// Calls body(place, period place) for vectors of a map of `length` values, four at a time, then tail(place, period
// place) for the values that are left.
template <class T, class Body, class Tail>
inline void each_value(size_t length, int period, Body body, Tail tail) {
    constexpr int step = FOUR * LANES<T>;
    size_t base = 0;
    for (; base + period <= length; base += period)
        for (int i = 0; i < period; i += step) body(base + i, i);
    for (size_t i = base; i < length; i++) tail(i, static_cast<int>(i - base));
}

// Number of values, mean and sum of squared deviations from it.
struct Moments {
    double count = 0, mean = 0, squares = 0;

    // Chan, Golub and LeVeque 1979, equation 2.1.
    void add(const Moments& other) {
        const double total = count + other.count;
        if (total == 0) return;
        const double difference = other.mean - mean;
        mean += difference * other.count / total;
        squares += other.squares + difference * difference * count * other.count / total;
        count = total;
    }
};

// Room for the sums of one map.
template <class T>
struct Bench {
    std::vector<T> periods;
    std::vector<double> sums;

    explicit Bench(int channels) : periods(3 * period_of<T>(channels)), sums(2 * channels) {}
};

// Adds the values of a map to the moments of its channels. The sums are of differences from the first pixel, which is
// as near to the mean as any, so that little is lost.
template <class T>
void add_moments(const T* map, size_t pixels, int channels, Bench<T>& bench, Moments* moments) {
    constexpr int lanes = LANES<T>;
    const int period = period_of<T>(channels);
    const size_t length = pixels * channels;
    T *shift = bench.periods.data(), *first = shift + period, *second = first + period;
    write_period<T>(map, channels, 1, shift);
    for (int start = 0; start < period; start += FOUR * lanes) {
        Vector<T> shifts[FOUR], ones[FOUR] = {}, twos[FOUR] = {};
        for (int v = 0; v < FOUR; v++) shifts[v] = load(shift + start + v * lanes);
        for (size_t base = start; base - start + period <= length; base += period)
            for (int v = 0; v < FOUR; v++) {
                const Vector<T> difference = load(map + base + v * lanes) - shifts[v];
                ones[v] += difference, twos[v] += difference * difference;
            }
        for (int v = 0; v < FOUR; v++) store(first + start + v * lanes, ones[v]), store(second + start + v * lanes, twos[v]);
    }
    for (size_t i = length / period * period, place = 0; i < length; i++, place++) {
        const T difference = map[i] - shift[place];
        first[place] += difference, second[place] += difference * difference;
    }
    double* sums = bench.sums.data();
    std::fill_n(sums, 2 * channels, 0.0);
    fold_period(first, channels, sums);
    fold_period(second, channels, sums + channels);
    for (int c = 0; c < channels; c++) {
        const double mean = sums[c] / pixels;
        const double squares = sums[channels + c] - sums[c] * mean;
        // Not std::max, which would make a zero of what is not a number.
        moments[c].add({static_cast<double>(pixels), map[c] + mean, squares < 0 ? 0 : squares});
    }
}

// Adds the sums over pixels of `gradient` * (map - centre) to `sums` [channels]; without a map those of `gradient`.
// `centre` is a period, or null.
template <class T>
void add_sums(const T* gradient, const T* map, const T* centre, size_t pixels, int channels, Bench<T>& bench, double* sums) {
    constexpr int lanes = LANES<T>;
    const int period = period_of<T>(channels);
    const size_t length = pixels * channels;
    T* found = bench.periods.data();
    for (int start = 0; start < period; start += FOUR * lanes) {
        Vector<T> centres[FOUR] = {}, totals[FOUR] = {};
        for (int v = 0; centre && v < FOUR; v++) centres[v] = load(centre + start + v * lanes);
        for (size_t base = start; base - start + period <= length; base += period)
            for (int v = 0; v < FOUR; v++) {
                const Vector<T> g = load(gradient + base + v * lanes);
                totals[v] += map ? g * (load(map + base + v * lanes) - centres[v]) : g;
            }
        for (int v = 0; v < FOUR; v++) store(found + start + v * lanes, totals[v]);
    }
    for (size_t i = length / period * period, place = 0; i < length; i++, place++)
        found[place] += map ? gradient[i] * (map[i] - (centre ? centre[place] : 0)) : gradient[i];
    fold_period(found, channels, sums);
}

// Periods of the coefficients of a raw map's gradient.
template <class T>
struct Coefficients {
    const T *gradient, *map, *constant;
};

// out (+)= c1 * scale * gradient + c2 * map + c3; without a map c2 counts for nothing.
template <class T, bool ADD>
void combine(const T* gradient, const T* map, Coefficients<T> c, T scale, size_t length, int period, T* out) {
    constexpr int lanes = LANES<T>;
    const Vector<T> scales = splat(scale);
    each_value<T>(
        length, period,
        [&](size_t base, int place) {
            for (int v = 0; v < FOUR; v++) {
                const size_t at = base + v * lanes;
                const int i = place + v * lanes;
                Vector<T> value = load(c.gradient + i) * scales * load(gradient + at) + load(c.constant + i);
                if (map) value += load(c.map + i) * load(map + at);
                store(out + at, ADD ? load(out + at) + value : value);
            }
        },
        [&](size_t at, int i) {
            const T value = c.gradient[i] * scale * gradient[at] + c.constant[i] + (map ? c.map[i] * map[at] : 0);
            out[at] = ADD ? out[at] + value : value;
        });
}

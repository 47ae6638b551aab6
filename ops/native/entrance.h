// The entrances of a cell: ReLU, a pointwise convolution (or the two of a factorised reduction), batch norm.
//
// All entrances of a cell are one call, in which their stages share the meetings of the threads. The raw maps are kept,
// the rectified ones are not. `ops/native/entrance.py` lists the numbers of a call.
#pragma once

#include "convolution.h"
#include "flat.h"
#include "team.h"
#include "weights.h"

template <class T>
struct EntranceCall {
    int64_t batch, height, width, ins, outs, stride, threads, batch_statistics, update, needs_input, needs_weights;
    T *input, *weights[2], *raw, *stats, *running[2], *affine[2], *output;
    T *output_gradient, *input_gradient, *weight_gradients[2], *affine_gradients[2];

    // Reads the call from `p` on, and leaves `p` behind it.
    explicit EntranceCall(const int64_t*& p) {
        for (int64_t* number : {&batch, &height, &width, &ins, &outs, &stride, &threads, &batch_statistics, &update,
                                &needs_input, &needs_weights})
            *number = *p++;
        for (T** pointer : {&input, &weights[0], &weights[1], &raw, &stats, &running[0], &running[1], &affine[0], &affine[1],
                            &output, &output_gradient, &input_gradient, &weight_gradients[0], &weight_gradients[1],
                            &affine_gradients[0], &affine_gradients[1]})
            *pointer = reinterpret_cast<T*>(*p++);
        threads = std::max<int64_t>(1, std::min(threads, batch));
    }
};

// What both passes of an entrance know.
template <class T>
struct Entrance {
    EntranceCall<T> call;
    Channels ins, outs;
    Geometry from, to;  // of the input's channels, and of the output's
    std::vector<Tap> taps;
    std::vector<std::vector<Tap>> back;  // by phase
    size_t pixels, length, in_length;
    int period;

    explicit Entrance(const int64_t*& numbers)
        : call(numbers),
          ins(Channels::of<T>(call.ins, true)),
          outs(Channels::of<T>(call.outs, true)),
          from(call.height, call.width, call.stride, call.stride - 1, ins),
          to(call.height, call.width, call.stride, call.stride - 1, outs) {
        pixels = static_cast<size_t>(from.out_height) * from.out_width;
        length = pixels * call.outs, in_length = static_cast<size_t>(call.height) * call.width * call.ins;
        period = period_of<T>(call.outs);
        std::vector<Displacement> displacements = {{0, 0}};
        if (call.stride == 2) displacements.push_back({1, 1});
        taps = from.taps(displacements);
        for (const Geometry::Phase& phase : from.phases) back.push_back(to.taps_back(displacements, phase));
    }

    // The outputs of each convolution.
    int own_outs() const { return static_cast<int>(call.outs / taps.size()); }
    T affine(int which, int channel) const { return call.affine[which] ? call.affine[which][channel] : T(1 - which); }
    int threads() const { return call.threads; }

    // Calls body(image) for the images of a member.
    template <class Body>
    void each_image(int number, int members, Body body) const {
        const int end = share(call.batch, members, number + 1);
        for (int image = share(call.batch, members, number); image < end; image++) body(image);
    }
};

template <class T>
class EntranceForward : Entrance<T> {
    using P = Entrance<T>;
    using P::call, P::from, P::length, P::outs, P::period, P::pixels, P::taps, P::to;

  public:
    using P::threads;

    explicit EntranceForward(const int64_t*& numbers)
        : P(numbers), matrix(taps.size() * call.ins * outs.unit), moments(call.threads), factors(period), terms(period) {
        for (size_t t = 0; t < taps.size(); t++)
            pack_matrix(call.weights[t], this->own_outs(), call.ins, 1, 0, false, t * this->own_outs(), outs,
                        matrix.data + t * call.ins * outs.unit);
    }

    // The raw maps of a member's images, and their moments.
    void convolve(int number, int members) {
        moments[number].resize(call.outs);
        Bench<T> bench(call.outs);
        Buffer<T> grid(from.size), compact(to.compact.at.size() * outs.unit);
        this->each_image(number, members, [&](int image) {
            from.template fill<T, true>(call.input + image * this->in_length, nullptr, grid.data);
            T* map = call.raw + image * length;
            T* sums = to.is_map() ? map : compact.data;
            product<T, false>(grid.data, from.reads, sums, to.compact, taps, matrix.data, call.ins, outs);
            if (!to.is_map()) to.to_map(sums, map);
            if (call.batch_statistics) add_moments(map, pixels, call.outs, bench, moments[number].data());
        });
    }

    // Makes the statistics, and factor and term of each channel, as periods.
    void close() {
        T *mean = call.stats, *rstd = mean + call.outs;
        std::vector<T> factor(call.outs), term(call.outs);
        for (int c = 0; c < call.outs; c++) {
            if (call.batch_statistics) {
                Moments total;
                for (const std::vector<Moments>& part : moments)
                    if (!part.empty()) total.add(part[c]);
                mean[c] = static_cast<T>(total.mean);
                rstd[c] = static_cast<T>(1 / std::sqrt(total.squares / total.count + EPSILON));
                if (call.update && call.running[0]) {
                    const double unbiased = total.squares / std::max(1.0, total.count - 1);
                    call.running[0][c] += static_cast<T>(MOMENTUM) * (mean[c] - call.running[0][c]);
                    call.running[1][c] += static_cast<T>(MOMENTUM) * (static_cast<T>(unbiased) - call.running[1][c]);
                }
            }
            factor[c] = this->affine(0, c) * rstd[c], term[c] = this->affine(1, c) - factor[c] * mean[c];
        }
        write_period<T>(factor.data(), call.outs, 1, factors.data());
        write_period<T>(term.data(), call.outs, 1, terms.data());
    }

    void normalise(int number, int members) const {
        const Coefficients<T> coefficients{factors.data(), nullptr, terms.data()};
        this->each_image(number, members, [&](int image) {
            combine<T, false>(call.raw + image * length, nullptr, coefficients, T(1), length, period,
                              call.output + image * length);
        });
    }

  private:
    Buffer<T> matrix;
    std::vector<std::vector<Moments>> moments;  // by thread
    std::vector<T> factors, terms;
};

template <class T>
class EntranceBackward : Entrance<T> {
    using P = Entrance<T>;
    using P::back, P::call, P::from, P::in_length, P::ins, P::length, P::outs, P::period, P::pixels, P::taps, P::to;

  public:
    using P::threads;

    explicit EntranceBackward(const int64_t*& numbers)
        : P(numbers),
          matrix(taps.size() * call.outs * ins.unit),
          sums(call.threads),
          gradients(call.threads),
          means(period),
          coefficients(3 * period),
          square(static_cast<size_t>(outs.padded) * ins.unit) {
        for (size_t t = 0; t < taps.size(); t++)
            pack_matrix(call.weights[t], this->own_outs(), call.ins, 1, 0, true, t * this->own_outs(), ins,
                        matrix.data + t * call.outs * ins.unit);
        write_period<T>(call.stats, call.outs, 1, means.data());
    }

    // The sums of a member's images of the gradient g, and of g * (map - mean).
    void add(int number, int members) {
        sums[number].resize(2 * call.outs);
        Bench<T> bench(call.outs);
        this->each_image(number, members, [&](int image) {
            const T *gradient = call.output_gradient + image * length, *map = call.raw + image * length;
            add_sums<T>(gradient, nullptr, nullptr, pixels, call.outs, bench, sums[number].data());
            add_sums<T>(gradient, map, means.data(), pixels, call.outs, bench, sums[number].data() + call.outs);
        });
    }

    // Makes the coefficients of the raw map's gradient, and the gradients of factors and terms.
    void close() {
        const double count = static_cast<double>(call.batch) * pixels;
        std::vector<T> found[3];
        for (std::vector<T>& each : found) each.resize(call.outs);
        for (int c = 0; c < call.outs; c++) {
            double plain = 0, product = 0;
            for (const std::vector<double>& part : sums)
                if (!part.empty()) plain += part[c], product += part[call.outs + c];
            const double rstd = call.stats[call.outs + c];
            product *= rstd;
            const double c1 = this->affine(0, c) * rstd, c2 = call.batch_statistics ? -c1 * rstd * product / count : 0;
            found[0][c] = static_cast<T>(c1), found[1][c] = static_cast<T>(c2);
            found[2][c] = call.batch_statistics ? static_cast<T>(-c1 * plain / count - c2 * call.stats[c]) : 0;
            if (!call.needs_weights || !call.affine[0]) continue;
            call.affine_gradients[0][c] = static_cast<T>(product), call.affine_gradients[1][c] = static_cast<T>(plain);
        }
        for (int which = 0; which < 3; which++)
            write_period<T>(found[which].data(), call.outs, 1, &coefficients[which * period]);
    }

    // The gradients of a member's images, and what these give to those of the weights.
    void go_back(int number, int members) {
        if (call.needs_weights) gradients[number] = Buffer<T>(taps.size() * square);
        Buffer<T> grid(from.size), into(from.size), written(to.out_size), compact(to.compact.at.size() * outs.unit),
            flat(length);
        const Coefficients<T> c{coefficients.data(), &coefficients[period], &coefficients[2 * period]};
        this->each_image(number, members, [&](int image) {
            const T *gradient = call.output_gradient + image * length, *map = call.raw + image * length;
            T* raw = to.is_map() ? compact.data : flat.data;
            combine<T, false>(gradient, map, c, T(1), length, period, raw);
            if (!to.is_map()) to.from_map(flat.data, compact.data), raw = compact.data;
            from.template fill<T, true>(call.input + image * in_length, nullptr, grid.data);
            if (call.needs_weights) outer<T>(grid.data, from.reads, taps, raw, to.compact, gradients[number].data, ins, outs);
            if (!call.needs_input) return;
            if (call.stride == 1) {
                product<T, false>(raw, to.compact, into.data, from.reads, taps, matrix.data, call.outs, ins);
            } else {
                for (int p = 0; p < to.compact.count; p++)
                    copy(raw + to.compact.at[p], outs.unit, written.data + to.writes.at[p]);
                std::fill_n(into.data, from.size, T(0));
                for (size_t phase = 0; phase < from.phases.size(); phase++)
                    if (!back[phase].empty())
                        product<T, true>(written.data, to.phases[phase].outputs, into.data, from.phases[phase].inputs,
                                         back[phase], matrix.data, call.outs, ins);
            }
            T* target = call.input_gradient + image * in_length;
            from.each_run([&](size_t place, int at, int run) {
                for (int k = 0; k < run; k++) target[place + k] = grid.data[at + k] <= 0 ? 0 : into.data[at + k];
            });
        });
    }

    // Sums the gradients of the weights over the threads and writes them as the weights lie.
    void write_gradients(int members) {
        if (!call.needs_weights) return;
        for (int member = 1; member < members; member++) add_all(gradients[member], gradients[0]);
        const int own_outs = this->own_outs();
        for (size_t t = 0; t < taps.size(); t++)
            for (int out = 0; out < own_outs; out++)
                for (int in = 0; in < call.ins; in++)
                    call.weight_gradients[t][out * call.ins + in] =
                        entry_of(gradients[0].data + t * square, static_cast<int>(t) * own_outs + out, in, ins);
    }

  private:
    Buffer<T> matrix;
    std::vector<std::vector<double>> sums;  // by thread
    std::vector<Buffer<T>> gradients;       // of the weights, by thread
    std::vector<T> means, coefficients;
    size_t square;
};

// Reads the passes of a call: their number, then the numbers of each.
template <class Pass>
std::vector<Pass> entrances(const int64_t* numbers) {
    const int64_t count = *numbers++;
    std::vector<Pass> passes;
    passes.reserve(count);
    for (int64_t i = 0; i < count; i++) passes.emplace_back(numbers);
    return passes;
}

template <class T>
void enter(const int64_t* numbers) {
    std::vector<EntranceForward<T>> passes = entrances<EntranceForward<T>>(numbers);
    const int count = static_cast<int>(passes.size());
    in_team(passes[0].threads(), [&](int number, int members, Meeting& meeting) {
        for (EntranceForward<T>& pass : passes) pass.convolve(number, members);
        meeting.wait();
        for (int i = number; i < count; i += members) passes[i].close();
        meeting.wait();
        for (const EntranceForward<T>& pass : passes) pass.normalise(number, members);
    });
}

template <class T>
void enter_back(const int64_t* numbers) {
    std::vector<EntranceBackward<T>> passes = entrances<EntranceBackward<T>>(numbers);
    const int count = static_cast<int>(passes.size());
    in_team(passes[0].threads(), [&](int number, int members, Meeting& meeting) {
        for (EntranceBackward<T>& pass : passes) pass.add(number, members);
        meeting.wait();
        for (int i = number; i < count; i += members) passes[i].close();
        meeting.wait();
        for (EntranceBackward<T>& pass : passes) pass.go_back(number, members);
        meeting.wait();
        for (int i = number; i < count; i += members) passes[i].write_gradients(members);
    });
}

// A cell of mixed edges, forward and backward, image by image.
//
// Batch norm has to see a whole map before anything reads it, so a pass is a few stages with a meeting of all threads
// after each; within a stage an image goes through all operations of a source while it is in the cache. Only raw maps,
// states and the places of maxima are kept for the backward pass; normalised, rectified and depthwise values are
// computed again. `ops/native/program.py` says what the numbers of a program mean.
#pragma once

#include <compare>
#include <limits>
#include <map>
#include <memory>
#include <mutex>

#include "convolution.h"
#include "flat.h"
#include "team.h"
#include "weights.h"

constexpr int MAXIMUM_TAPS = 9;

enum Kind { CHAIN, MAXIMUM, AVERAGE, SKIP, DENSE, REDUCE };

struct Operation {
    Kind kind;
    int source, kernel, dilation, first, second, half, maximum;
};

// What an operation reads around a pixel: kernel x kernel pixels, or the two of a factorised reduction.
struct Window {
    bool reduces;
    int kernel, dilation;

    auto operator<=>(const Window&) const = default;

    std::vector<Displacement> displacements() const {
        if (reduces) return {{0, 0}, {1, 1}};
        std::vector<Displacement> found;
        for (int i = 0; i < kernel; i++)
            for (int j = 0; j < kernel; j++) found.push_back({(i - kernel / 2) * dilation, (j - kernel / 2) * dilation});
        return found;
    }
};

struct Entry {
    int node, map, weight, operation, drop;  // map: -1 - state for a skip; drop: row of factors by image, or -1
};

// An edge that some channels of a state take past all operations, scaled by a share.
struct Edge {
    int share, source, node;
};

struct Program {
    int inputs, nodes, stride, channels, partial, operations, entries, edges, maps, halves, maxima;
    std::vector<int> concat;  // place of each node in the output, or -1
    int concatenated = 0;
    int outer = 0;   // channels of a state that pass the operations by
    int shares = 0;  // room for the numbers of shares
    std::vector<Operation> operation;
    std::vector<Entry> entry;
    std::vector<std::vector<int>> leaving;     // operations by source
    std::vector<std::vector<int>> entering;    // entries by node
    std::vector<std::vector<int>> entries_of;  // entries by operation
    std::vector<std::vector<Edge>> departing;  // edges by source
    std::vector<std::vector<Edge>> arriving;   // edges by node

    // The first number says how many follow.
    explicit Program(const int32_t* numbers) {
        const int32_t* p = numbers + 1;
        for (int* number :
             {&inputs, &nodes, &stride, &channels, &partial, &operations, &entries, &edges, &maps, &halves, &maxima})
            *number = *p++;
        outer = channels * (partial - 1);
        concat.assign(p, p + nodes), p += nodes;
        for (int node = 0; node < nodes; node++) concatenated += concat[node] >= 0;
        leaving.resize(inputs + nodes), entering.resize(nodes), entries_of.resize(operations);
        departing.resize(inputs + nodes), arriving.resize(nodes);
        for (int i = 0; i < operations; i++, p += 8) {
            operation.push_back({static_cast<Kind>(p[0]), p[1], p[2], p[3], p[4], p[5], p[6], p[7]});
            leaving[p[1]].push_back(i);
        }
        for (int i = 0; i < entries; i++, p += 5) {
            entry.push_back({p[0], p[1], p[2], p[3], p[4]});
            entering[p[0]].push_back(i), entries_of[p[3]].push_back(i);
        }
        for (int i = 0; i < edges; i++, p += 3) {
            departing[p[1]].push_back({p[0], p[1], p[2]});
            arriving[p[2]].push_back({p[0], p[1], p[2]});
            shares = std::max(shares, p[0] + 1);
        }
    }

    // The sources that become known together, by their first one.
    std::vector<int> group(int first) const {
        std::vector<int> sources;
        for (int s = first; s < (first == 0 ? inputs : first + 1); s++) sources.push_back(s);
        return sources;
    }

    // The operations that leave the sources and have a second half.
    std::vector<int> doubles(const std::vector<int>& sources) const {
        std::vector<int> found;
        for (int source : sources)
            for (int i : leaving[source])
                if (operation[i].second >= 0) found.push_back(i);
        return found;
    }

    int stages(const Operation& operation) const { return operation.kind == CHAIN && operation.second >= 0 ? 2 : 1; }

    Window window(const Operation& operation, int stage) const {
        const int kernel = operation.kind == MAXIMUM || operation.kind == AVERAGE ? 3 : operation.kernel;
        return {operation.kind == REDUCE, kernel, stage == 0 && operation.kind == CHAIN ? operation.dilation : 1};
    }

    int border() const {
        int border = 1;
        for (const Operation& each : operation)
            if (each.kind == CHAIN || each.kind == DENSE)
                border = std::max(border, each.kernel / 2 * std::max(1, each.dilation));
        return border;
    }
};

template <class T>
struct Call {
    int64_t batch, height, width, threads, batch_statistics, update, needs_inputs, needs_weights;
    std::vector<T*> inputs, input_gradients, outer_inputs, outer_input_gradients;
    T *outers, *outer_gradients, *shares, *share_gradients;
    T *nodes, *stats, *mixture, *output, *output_gradient, *node_gradients, *mixture_gradient, *drops;
    uint8_t* places;
    std::vector<T*> weights, weight_gradients;  // four for each operation
    std::vector<T*> running;                    // mean and variance of each map, or null
    std::vector<T*> affine, affine_gradients;   // factor and term of each normalised map, or null

    // `numbers` are sizes, the addresses of whole tensors, and those of the tensors of all lists; `listed` has two numbers for
    // each thing in a list, its tensor (-1: none) and the place in there.
    Call(const Program& program, const int64_t* listed, const int64_t* numbers) {
        const int64_t* p = numbers;
        batch = *p++, height = *p++, width = *p++, threads = *p++, batch_statistics = *p++, update = *p++, needs_inputs = *p++,
        needs_weights = *p++;
        for (T** pointer : {&nodes, &stats, &mixture, &output, &output_gradient, &node_gradients, &mixture_gradient, &drops,
                            &outers, &outer_gradients, &shares, &share_gradients})
            *pointer = reinterpret_cast<T*>(*p++);
        places = reinterpret_cast<uint8_t*>(*p++);
        auto read = [&](std::vector<T*>& list, int count) {
            for (int i = 0; i < count; i++, listed += 2) {
                T* tensor = listed[0] < 0 ? nullptr : reinterpret_cast<T*>(p[listed[0]]);
                list.push_back(tensor ? tensor + listed[1] : nullptr);
            }
        };
        read(inputs, program.inputs), read(outer_inputs, program.inputs);
        read(input_gradients, program.inputs), read(outer_input_gradients, program.inputs);
        read(weights, 4 * program.operations), read(weight_gradients, 4 * program.operations);
        read(running, 2 * program.maps), read(affine, 2 * program.maps), read(affine_gradients, 2 * program.maps);
        threads = std::max<int64_t>(1, std::min(threads, batch));
    }
};

// What a thread needs to compute one image of one geometry.
template <class T>
struct Scratch {
    Buffer<T> rectified, plain, lowest, input_gradient, plain_gradient, outputs, filtered, compact, flat;
    Bench<T> bench;

    explicit Scratch(const Geometry& g)
        : rectified(g.size),
          plain(g.size),
          lowest(g.size),
          input_gradient(g.size),
          plain_gradient(g.size),
          outputs(g.out_size),
          filtered(g.compact.at.size() * g.channels.unit),
          compact(g.compact.at.size() * g.channels.unit),
          flat(std::max(g.compact.at.size() * g.channels.unit, static_cast<size_t>(g.height) * g.width * g.channels.count)),
          bench(g.channels.count) {
        std::fill(lowest.data, lowest.data + g.size, -std::numeric_limits<T>::infinity());
    }
};

// 1 / the number of pixels of the image under a pool, for each value of the outputs.
template <class T>
Buffer<T> shares_of(const Geometry& g) {
    Buffer<T> shares(g.compact.at.size() * g.channels.unit);
    auto inside = [](int first, int size) { return std::min(first + 3, size) - std::max(first, 0); };
    for (int y = 0; y < g.out_height; y++)
        for (int x = 0; x < g.columns; x++) {
            const int pixels = inside(y * g.stride - 1, g.height) * std::max(1, inside(x * g.stride - 1, g.width));
            std::fill_n(shares.data + (static_cast<size_t>(y) * g.columns + x) * g.channels.padded, g.channels.padded,
                        T(1) / pixels);
        }
    return shares;
}

// The taps of a window: those that a pixel of the outputs reads, and by phase those that reach a pixel of the input.
struct Taps {
    std::vector<Tap> there;
    std::vector<std::vector<Tap>> back;
};

// What a pass knows before it sees a tensor: it depends on the program and the size of the images alone.
template <class T>
struct Plan {
    Program program;
    Channels channels;
    Geometry outside, inside;       // of operations on inputs, and on nodes and first halves
    std::vector<const Taps*> taps;  // two for each operation, by stage; many operations share a window
    std::vector<char> norm;         // whether a map is normalised
    Buffer<T> shares[2];            // `shares_of` outside and inside

    Plan(const int32_t* numbers, int height, int width)
        : program(numbers),
          channels(Channels::of<T>(program.channels)),
          outside(height, width, program.stride, program.border(), channels),
          inside(outside.out_height, outside.out_width, 1, program.border(), channels),
          taps(2 * program.operations),
          norm(program.maps, 1) {
        for (int i = 0; i < program.operations; i++) {
            const Operation& operation = program.operation[i];
            for (int stage = 0; stage < program.stages(operation); stage++) {
                const bool within = stage == 1 || operation.source >= program.inputs;
                taps[2 * i + stage] = &taps_of(within, program.window(operation, stage));
            }
            if ((operation.kind == MAXIMUM || operation.kind == AVERAGE) && operation.half < 0) norm[operation.first] = 0;
        }
        shares[0] = shares_of<T>(outside), shares[1] = shares_of<T>(inside);
    }
    Plan(const Plan&) = delete;

  private:
    std::map<Window, Taps> known[2];  // outside and inside

    const Taps& taps_of(bool within, const Window& window) {
        const auto [place, added] = known[within].try_emplace(window);
        Taps& found = place->second;
        if (!added) return found;
        const Geometry& g = within ? inside : outside;
        const std::vector<Displacement> displacements = window.displacements();
        found.there = g.taps(displacements);
        for (const Geometry::Phase& phase : g.phases) found.back.push_back(g.taps_back(displacements, phase));
        return found;
    }
};

// Returns the plan for a program and a size of images. Plans are kept, since one thread makes them while the others wait.
template <class T>
std::shared_ptr<const Plan<T>> plan_of(const int32_t* numbers, int height, int width) {
    constexpr size_t MOST = 256;  // a search that samples paths has ever new programs
    static std::mutex mutex;
    static std::map<std::vector<int32_t>, std::shared_ptr<const Plan<T>>> kept;
    std::vector<int32_t> key(numbers, numbers + 1 + numbers[0]);
    key.push_back(height), key.push_back(width);
    const std::lock_guard<std::mutex> lock(mutex);
    const auto place = kept.find(key);
    if (place != kept.end()) return place->second;
    if (kept.size() == MOST) kept.clear();
    return kept[key] = std::make_shared<const Plan<T>>(numbers, height, width);
}

// Everything that a pass shares between its threads.
template <class T>
struct Pass {
    std::shared_ptr<const Plan<T>> plan;
    const Program& program;
    Call<T> call;
    const Channels& channels;
    const Geometry &outside, &inside;
    const std::vector<char>& norm;
    size_t pixels;        // of a node
    size_t length;        // values of a node, in its channels for operations
    size_t outer_length;  // values of a node in its other channels
    int period;
    struct Packed {
        Buffer<T> depthwise[2], matrix[2];  // by stage
    };
    std::vector<Packed> packed;  // by operation
    // By thread:
    std::vector<std::vector<Moments>> moments;   // [maps * channels]
    std::vector<std::vector<double>> sums;       // [(entries + halves) * 2 * channels]
    std::vector<std::vector<Packed>> gradients;  // of the packed weights, by operation

    Pass(const int32_t* numbers, const int64_t* listed, const int64_t* arguments)
        : plan(plan_of<T>(numbers, arguments[1], arguments[2])),
          program(plan->program),
          call(program, listed, arguments),
          channels(plan->channels),
          outside(plan->outside),
          inside(plan->inside),
          norm(plan->norm) {
        pixels = static_cast<size_t>(outside.out_height) * outside.out_width;
        length = pixels * program.channels;
        outer_length = pixels * program.outer;
        period = period_of<T>(program.channels);
        packed.resize(program.operations);
    }

    const Geometry& geometry(int source) const { return source < program.inputs ? outside : inside; }
    const Taps& taps(int i, int stage) const { return *plan->taps[2 * i + stage]; }
    const T* shares(int source) const { return plan->shares[source >= program.inputs].data; }
    T* node(int number, int image) const { return call.nodes + (static_cast<size_t>(number) * call.batch + image) * length; }
    // Raw maps lie behind the nodes, and the gradients of first halves behind those of the nodes.
    T* map(int number, int image) const { return node(program.nodes + number, image); }
    T* node_gradient(int number, int image) const {
        return call.node_gradients + (static_cast<size_t>(number) * call.batch + image) * length;
    }
    T* half_gradient(int number, int image) const { return node_gradient(program.nodes + number, image); }
    T* state(int source, int image) const {
        if (source >= program.inputs) return node(source - program.inputs, image);
        return call.inputs[source] + static_cast<size_t>(image) * outside.height * outside.width * program.channels;
    }
    T* outer(int source, int image) const {
        if (source < program.inputs) return call.outer_inputs[source] + image * outer_length;
        return call.outers + (static_cast<size_t>(source - program.inputs) * call.batch + image) * outer_length;
    }
    T* outer_gradient(int node, int image) const {
        return call.outer_gradients + (static_cast<size_t>(node) * call.batch + image) * outer_length;
    }
    // Values of a pixel of a whole state.
    int state_channels() const { return program.channels * program.partial; }
    T* statistic(int map, int which) const { return call.stats + (static_cast<size_t>(map) * 3 + which) * program.channels; }
    uint8_t* places(int maximum, int image) const {
        const size_t values = outside.compact.at.size() * channels.unit;
        return call.places + (static_cast<size_t>(maximum) * call.batch + image) * values;
    }
    T weight_of(const Entry& entry) const { return call.mixture[entry.weight]; }
    T drop_of(const Entry& entry, int image) const {
        return entry.drop < 0 || !call.drops ? T(1) : call.drops[entry.drop * call.batch + image];
    }
    // The factor (0) or term (1) of a normalised map's channel.
    T affine(int map, int which, int channel) const {
        const T* numbers = call.affine[2 * map + which];
        return numbers ? numbers[channel] : T(1 - which);
    }

    // Means, factors and terms by which a first half is normalised, as periods.
    Normaliser<T> normaliser(int i) const {
        const int map = program.operation[i].first, count = channels.count;
        std::vector<T> factors(count), terms(count);
        for (int c = 0; c < count; c++) factors[c] = statistic(map, 1)[c] * affine(map, 0, c), terms[c] = affine(map, 1, c);
        Normaliser<T> found{std::vector<T>(period), std::vector<T>(period), std::vector<T>(period)};
        write_period<T>(statistic(map, 0), count, 1, found.means.data());
        write_period<T>(factors.data(), count, 1, found.factors.data());
        write_period<T>(terms.data(), count, 1, found.terms.data());
        return found;
    }

    std::vector<Normaliser<T>> normalisers(const std::vector<int>& operations) const {
        std::vector<Normaliser<T>> found;
        for (int i : operations) found.push_back(normaliser(i));
        return found;
    }

    // Packs the weights of operation `i`; transposed for the backward pass.
    void pack(int i, bool transposed) {
        const Operation& operation = program.operation[i];
        Packed& own = packed[i];
        const int count = channels.count, half = count / 2;
        const size_t square = static_cast<size_t>(count) * channels.unit;
        for (int stage = 0; stage < program.stages(operation); stage++) {
            const int taps = static_cast<int>(this->taps(i, stage).there.size());
            T* const* weights = &call.weights[4 * i + 2 * stage];
            const bool pools = operation.kind == MAXIMUM || operation.kind == AVERAGE;
            own.matrix[stage] = Buffer<T>(pools ? 0 : (operation.kind == CHAIN ? 1 : taps) * square);
            T* matrix = own.matrix[stage].data;
            if (operation.kind == CHAIN) {
                own.depthwise[stage] = Buffer<T>(static_cast<size_t>(taps) * channels.unit);
                pack_depthwise(weights[0], taps, channels, own.depthwise[stage].data);
                pack_matrix(weights[1], count, count, 1, 0, transposed, 0, channels, matrix);
            } else if (operation.kind == DENSE) {
                for (int t = 0; t < taps; t++)
                    pack_matrix(weights[0], count, count, taps, t, transposed, 0, channels, matrix + t * square);
            } else if (operation.kind == REDUCE) {
                // Each convolution gives half of the outputs; the other half of its matrix is zero.
                for (int t = 0; t < taps; t++)
                    pack_matrix(weights[t], half, count, 1, 0, transposed, t * half, channels, matrix + t * square);
            } else if (operation.kind == AVERAGE) {
                own.depthwise[stage] = Buffer<T>(static_cast<size_t>(taps) * channels.unit);
                std::fill_n(own.depthwise[stage].data, taps * channels.unit, T(1));
            }
        }
    }

    // Writes a compact map to its place among the maps, unless it has been computed there.
    void keep(const Geometry& g, const T* compact, T* map) const {
        if (!g.is_map()) g.to_map(compact, map);
    }
    T* compact_of(const Geometry& g, Scratch<T>& scratch, T* map) const { return g.is_map() ? map : scratch.compact.data; }
};

// sum += scale * values
template <class T>
void add_scaled_values(const T* values, T scale, size_t length, T* sum) {
    for (size_t i = 0; i < length; i++) sum[i] += scale * values[i];
}

template <class T>
class Forward : Pass<T> {
    using P = Pass<T>;
    using P::call, P::channels, P::inside, P::length, P::norm, P::outer_length, P::outside, P::packed, P::period, P::pixels,
        P::program;

  public:
    using P::P;

    void run() {
        const int threads = call.threads;
        this->moments.resize(threads);
        in_team(threads, [&](int number, int members, Meeting& meeting) {
            this->moments[number].resize(static_cast<size_t>(program.maps) * channels.count);
            for (int i = number; i < program.operations; i += members) this->pack(i, false);
            Scratch<T> on_inputs(outside), on_nodes(inside);
            std::vector<T> mixed(program.outer ? length : 0), passing(outer_length), state(this->state_channels());
            const int begin = share(call.batch, members, number), end = share(call.batch, members, number + 1);
            meeting.wait();
            for (int first = 0; first < program.inputs + program.nodes; first = first == 0 ? program.inputs : first + 1) {
                const std::vector<int> sources = program.group(first);
                const int node = first - program.inputs;
                Sum sum;
                for (int image = begin; image < end; image++) {
                    if (node >= 0 && (image == begin || call.drops)) sum = Sum(*this, node, image);
                    if (node >= 0 && !program.outer) {
                        sum.compute(*this, node, image, this->node(node, image));
                        hand_out(node, image, this->node(node, image));
                    } else if (node >= 0) {
                        sum.compute(*this, node, image, mixed.data());
                        pass_by(node, image, passing.data());
                        shuffle(node, image, mixed.data(), passing.data(), state.data());
                    }
                    for (int source : sources)
                        leave(source, image, source < program.inputs ? on_inputs : on_nodes, this->moments[number].data());
                }
                std::vector<int> maps;
                for (int source : sources)
                    for (int i : program.leaving[source])
                        if (program.operation[i].first >= 0) maps.push_back(program.operation[i].first);
                close(maps, number, members, meeting);
                const std::vector<int> seconds = program.doubles(sources);
                if (seconds.empty()) continue;
                const std::vector<Normaliser<T>> normalisers = this->normalisers(seconds);
                for (int image = begin; image < end; image++)
                    for (size_t s = 0; s < seconds.size(); s++)
                        second_half(seconds[s], normalisers[s], image, on_nodes, this->moments[number].data());
                maps.clear();
                for (int i : seconds) maps.push_back(program.operation[i].second);
                close(maps, number, members, meeting);
            }
        });
    }

  private:
    // The sum of all maps that enter a node, each with a factor and all together with a term for each channel.
    struct Sum {
        std::vector<T> factors, terms;

        Sum() = default;
        Sum(const Forward& pass, int node, int image) {
            const std::vector<int>& entries = pass.program.entering[node];
            const int period = pass.period, count = pass.channels.count;
            factors.resize((entries.size() + 1) * period), terms.resize(period);
            std::vector<T> factor(count), term(count);
            for (size_t e = 0; e < entries.size(); e++) {
                const Entry& entry = pass.program.entry[entries[e]];
                const T weight = pass.weight_of(entry) * pass.drop_of(entry, image);
                const bool normalise = entry.map >= 0 && pass.norm[entry.map];
                for (int c = 0; c < count; c++) {
                    factor[c] = normalise ? weight * pass.affine(entry.map, 0, c) * pass.statistic(entry.map, 1)[c] : weight;
                    if (normalise)
                        term[c] += weight * pass.affine(entry.map, 1, c) - factor[c] * pass.statistic(entry.map, 0)[c];
                }
                write_period<T>(factor.data(), count, 1, &factors[e * period]);
            }
            write_period<T>(term.data(), count, 1, terms.data());
        }

        // Computes the sum for one image.
        void compute(const Forward& pass, int node, int image, T* out) const {
            const std::vector<int>& entries = pass.program.entering[node];
            const int period = pass.period;
            // A block stays in the cache while all maps are added to it, some at a time.
            const size_t block = std::max<size_t>(1, 1024 / period) * period;
            for (size_t start = 0; start < pass.length; start += block) {
                const size_t size = std::min(block, pass.length - start);
                const T* maps[TERMS];
                size_t done = 0;
                do {
                    const size_t count = std::min<size_t>(TERMS, entries.size() - done);
                    for (size_t k = 0; k < count; k++) {
                        const int map = pass.program.entry[entries[done + k]].map;
                        maps[k] = (map >= 0 ? pass.map(map, image) : pass.state(-1 - map, image)) + start;
                    }
                    const T *own = &factors[done * period], *first = done == 0 ? terms.data() : nullptr;
                    switch (count) {
                        case 0: add_scaled<0>(maps, own, first, size, period, out + start); break;
                        case 1: add_scaled<1>(maps, own, first, size, period, out + start); break;
                        case 2: add_scaled<2>(maps, own, first, size, period, out + start); break;
                        case 3: add_scaled<3>(maps, own, first, size, period, out + start); break;
                        default: add_scaled<TERMS>(maps, own, first, size, period, out + start);
                    }
                    done += count;
                } while (done < entries.size());
            }
        }
    };

    // Where a node's channels of the first pixel lie in the output, or null.
    T* place_of(int node, int image) const {
        const int place = program.concat[node];
        if (place < 0) return nullptr;
        return call.output + (static_cast<size_t>(image) * pixels * program.concatenated + place) * this->state_channels();
    }

    // Copies a node to its place in the output, if it has one.
    void hand_out(int node, int image, const T* state) const {
        const int count = channels.count, wide = program.concatenated;
        T* to = place_of(node, image);
        for (size_t pixel = 0; to && pixel < pixels; pixel++) copy(state + pixel * count, count, to + pixel * wide * count);
    }

    // The sum of what passes the operations by on all edges to a node.
    void pass_by(int node, int image, T* passing) const {
        std::fill(passing, passing + outer_length, T(0));
        for (const Edge& edge : program.arriving[node])
            add_scaled_values(this->outer(edge.source, image), call.shares[edge.share], outer_length, passing);
    }

    // Makes a node of the sums of both kinds of channels: channel c of part p, of which the operations' is the first, becomes
    // channel c * parts + p.
    void shuffle(int node, int image, const T* mixed, const T* passing, T* state) const {
        const int count = channels.count, parts = program.partial, total = this->state_channels();
        T *inner = this->node(node, image), *outer = this->outer(program.inputs + node, image), *to = place_of(node, image);
        for (size_t pixel = 0; pixel < pixels; pixel++) {
            for (int c = 0; c < count; c++) state[c * parts] = mixed[pixel * count + c];
            for (int p = 1; p < parts; p++)
                for (int c = 0; c < count; c++) state[c * parts + p] = passing[pixel * program.outer + (p - 1) * count + c];
            copy(state, count, inner + pixel * count);
            copy(state + count, program.outer, outer + pixel * program.outer);
            if (to) copy(state, total, to + pixel * program.concatenated * total);
        }
    }

    static constexpr int TERMS = 4;

    // The sum of COUNT maps, each times its period of factors, and of a period of terms, or where there are none of what
    // `out` has already.
    template <int COUNT>
    static void add_scaled(const T* const* maps, const T* factors, const T* terms, size_t size, int period, T* out) {
        constexpr int lanes = LANES<T>;
        each_value<T>(
            size, period,
            [&](size_t base, int place) {
                for (int v = 0; v < FOUR; v++) {
                    const size_t at = base + v * lanes;
                    const int i = place + v * lanes;
                    Vector<T> sum = terms ? load(terms + i) : load(out + at);
                    for (int k = 0; k < COUNT; k++) sum += load(maps[k] + at) * load(factors + k * period + i);
                    store(out + at, sum);
                }
            },
            [&](size_t at, int i) {
                T sum = terms ? terms[i] : out[at];
                for (int k = 0; k < COUNT; k++) sum += maps[k][at] * factors[k * period + i];
                out[at] = sum;
            });
    }

    // Sends a state along all operations that leave it, up to their first batch norm.
    void leave(int source, int image, Scratch<T>& scratch, Moments* moments) {
        const Geometry& g = this->geometry(source);
        const T* state = this->state(source, image);
        bool rectified = false, pooled[2] = {false, false};
        for (int i : program.leaving[source]) {
            const Operation& operation = program.operation[i];
            if (operation.kind == SKIP) continue;
            T* map = this->map(operation.first, image);
            T* compact = this->compact_of(g, scratch, map);
            if (operation.kind == MAXIMUM || operation.kind == AVERAGE) {
                const bool maximum = operation.kind == MAXIMUM;
                T* grid = maximum ? scratch.lowest.data : scratch.plain.data;
                if (!pooled[maximum]) g.template fill<T, false>(state, nullptr, grid), pooled[maximum] = true;
                const std::vector<Tap>& taps = this->taps(i, 0).there;
                if (maximum)
                    maxima(g, grid, taps, compact, this->places(operation.maximum, image));
                else
                    averages(g, grid, taps, i, this->shares(source), compact);
            } else {
                if (!rectified) g.template fill<T, true>(state, nullptr, scratch.rectified.data), rectified = true;
                convolve(g, i, 0, scratch, compact);
            }
            this->keep(g, compact, map);
            if (call.batch_statistics && norm[operation.first])
                add_moments(map, pixels, channels.count, scratch.bench,
                            moments + static_cast<size_t>(operation.first) * channels.count);
        }
    }

    // A convolution of the rectified grid, of either stage of an operation.
    void convolve(const Geometry& g, int i, int stage, Scratch<T>& scratch, T* compact) {
        static const std::vector<Tap> here = {{0, 0}};
        const std::vector<Tap>& taps = this->taps(i, stage).there;
        const T* matrix = packed[i].matrix[stage].data;
        if (program.operation[i].kind == CHAIN) {
            T* filtered = scratch.filtered.data;
            depthwise<T, false>(scratch.rectified.data, g.reads, filtered, g.compact, taps, packed[i].depthwise[stage].data,
                                channels);
            product<T, false>(filtered, g.compact, compact, g.compact, here, matrix, channels.count, channels);
        } else {
            product<T, false>(scratch.rectified.data, g.reads, compact, g.compact, taps, matrix, channels.count, channels);
        }
    }

    void second_half(int i, const Normaliser<T>& normaliser, int image, Scratch<T>& scratch, Moments* moments) {
        const Operation& operation = program.operation[i];
        inside.template fill<T, true>(this->map(operation.first, image), &normaliser, scratch.rectified.data);
        T* map = this->map(operation.second, image);
        T* compact = this->compact_of(inside, scratch, map);
        convolve(inside, i, 1, scratch, compact);
        this->keep(inside, compact, map);
        if (call.batch_statistics)
            add_moments(map, pixels, channels.count, scratch.bench,
                        moments + static_cast<size_t>(operation.second) * channels.count);
    }

    // The largest value under each pool, and which tap has it: the first of equals.
    void maxima(const Geometry& g, const T* grid, const std::vector<Tap>& taps, T* compact, uint8_t* places) {
        using Integers = typename Simd<T>::Integers;
        constexpr int lanes = LANES<T>;
        for (int p = 0; p < g.reads.count; p++)
            for (int block = 0; block < channels.blocks; block++) {
                const T* pixel = grid + g.reads.at[p] + block * lanes;
                Vector<T> best = load(pixel + taps[0].offset);
                Integers place{};
                for (int t = 1; t < MAXIMUM_TAPS; t++) {
                    const Vector<T> value = load(pixel + taps[t].offset);
                    const Integers better = (value > best) | (value != value);
                    best = better ? value : best;
                    place = better ? Integers{} + t : place;
                }
                const int at = g.compact.at[p] + block * lanes;
                store(compact + at, best);
                const auto octets = __builtin_convertvector(place, typename Simd<T>::Octets);
                std::memcpy(places + at, &octets, sizeof octets);
            }
    }

    void averages(const Geometry& g, const T* grid, const std::vector<Tap>& taps, int i, const T* shares, T* compact) {
        depthwise<T, false>(grid, g.reads, compact, g.compact, taps, packed[i].depthwise[0].data, channels);
        constexpr int lanes = LANES<T>;
        for (int at = 0; at < g.compact.count * channels.unit; at += lanes)
            store(compact + at, load(compact + at) * load(shares + at));
    }

    // Combines what all threads have found of the maps: mean, 1 / standard deviation, unbiased variance.
    void close(const std::vector<int>& maps, int number, int members, Meeting& meeting) {
        if (maps.empty()) return;  // a member's images need nothing of the others'
        meeting.wait();
        if (!call.batch_statistics) return;
        for (size_t m = number; m < maps.size(); m += members) {
            const int map = maps[m];
            if (!norm[map]) continue;
            for (int c = 0; c < channels.count; c++) {
                Moments total;
                for (const std::vector<Moments>& part : this->moments)
                    if (!part.empty()) total.add(part[static_cast<size_t>(map) * channels.count + c]);
                const double unbiased = total.squares / std::max(1.0, total.count - 1);
                this->statistic(map, 0)[c] = static_cast<T>(total.mean);
                this->statistic(map, 1)[c] = static_cast<T>(1 / std::sqrt(total.squares / total.count + EPSILON));
                this->statistic(map, 2)[c] = static_cast<T>(unbiased);
                if (!call.update || !call.running[2 * map]) continue;
                T &mean = call.running[2 * map][c], &variance = call.running[2 * map + 1][c];
                mean += static_cast<T>(MOMENTUM) * (static_cast<T>(total.mean) - mean);
                variance += static_cast<T>(MOMENTUM) * (static_cast<T>(unbiased) - variance);
            }
        }
        meeting.wait();
    }
};

template <class T>
class Backward : Pass<T> {
    using P = Pass<T>;
    using P::call, P::channels, P::inside, P::length, P::norm, P::outer_length, P::outside, P::packed, P::period, P::pixels,
        P::program;

  public:
    using P::P;

    void run() {
        const int threads = call.threads;
        const int rows = program.entries + program.halves;
        coefficients.resize(static_cast<size_t>(rows) * 3 * period);
        this->sums.resize(threads), this->gradients.resize(threads), share_sums.resize(threads);
        in_team(threads, [&](int number, int members, Meeting& meeting) {
            this->sums[number].assign(static_cast<size_t>(rows) * 2 * channels.count, 0);
            for (int i = number; i < program.operations; i += members) this->pack(i, true);
            share_sums[number].assign(program.shares, 0);
            if (call.needs_weights) new_gradients(this->gradients[number]);
            Scratch<T> on_inputs(outside), on_nodes(inside);
            std::vector<T> outer(outer_length), state(this->state_channels());
            const int begin = share(call.batch, members, number), end = share(call.batch, members, number + 1);
            double* sums = this->sums[number].data();
            meeting.wait();
            for (int first = program.inputs + program.nodes - 1; first >= 0; first--) {
                if (first < program.inputs) {
                    first = 0;
                    if (!call.needs_inputs && !call.needs_weights) break;
                }
                const std::vector<int> sources = program.group(first);
                const std::vector<int> seconds = program.doubles(sources);
                if (!seconds.empty()) {
                    const std::vector<Normaliser<T>> normalisers = this->normalisers(seconds);
                    for (int image = begin; image < end; image++)
                        for (size_t s = 0; s < seconds.size(); s++)
                            second_half(seconds[s], normalisers[s], image, on_nodes, number);
                    meeting.wait();
                    for (size_t s = number; s < seconds.size(); s += members) {
                        const Operation& operation = program.operation[seconds[s]];
                        close(program.entries + operation.half, operation.first, 1);
                    }
                    meeting.wait();
                }
                std::vector<std::vector<T>> centres;
                if (first >= program.inputs) centres = centres_of(first - program.inputs);
                for (int image = begin; image < end; image++)
                    for (int source : sources) {
                        T* gradient = begin_gradient(source, image);
                        enter(source, image, source < program.inputs ? on_inputs : on_nodes, number, gradient);
                        if (program.outer) {
                            const bool node = source >= program.inputs;
                            T* passing = node ? outer.data() : call.outer_input_gradients[source] + image * outer_length;
                            pass_back(source, image, passing);
                            if (node) sort(source - program.inputs, image, gradient, passing, state.data());
                            if (node) add_shares(source - program.inputs, image, on_nodes.bench, share_sums[number].data());
                        }
                        if (source >= program.inputs)
                            add_entries(source - program.inputs, image, gradient, centres, on_nodes.bench, sums);
                    }
                if (first < program.inputs) break;
                meeting.wait();
                const std::vector<int>& entries = program.entering[first - program.inputs];
                for (size_t e = number; e < entries.size(); e += members) {
                    const Entry& entry = program.entry[entries[e]];
                    call.mixture_gradient[entry.weight] = static_cast<T>(close(entries[e], entry.map, this->weight_of(entry)));
                }
                if (number == 0) write_shares(first - program.inputs);
                meeting.wait();
            }
            if (!call.needs_weights) return;
            meeting.wait();
            for (int i = number; i < program.operations; i += members) write_gradients(i, members);
        });
    }

  private:
    std::vector<T> coefficients;                  // [entries + halves][3][period]
    std::vector<std::vector<double>> share_sums;  // by thread and share

    Coefficients<T> row_of(int row) { return {coefficient(row, 0), coefficient(row, 1), coefficient(row, 2)}; }
    T* coefficient(int row, int which) { return &coefficients[(static_cast<size_t>(row) * 3 + which) * period]; }

    void new_gradients(std::vector<typename P::Packed>& gradients) {
        gradients.resize(program.operations);
        for (int i = 0; i < program.operations; i++) {
            const Operation& operation = program.operation[i];
            const size_t square = static_cast<size_t>(channels.padded) * channels.unit;
            for (int stage = 0; stage < program.stages(operation); stage++) {
                const size_t taps = this->taps(i, stage).there.size();
                if (operation.kind == CHAIN) {
                    gradients[i].depthwise[stage] = Buffer<T>(taps * channels.unit);
                    gradients[i].matrix[stage] = Buffer<T>(square);
                } else if (operation.kind == DENSE || operation.kind == REDUCE) {
                    gradients[i].matrix[stage] = Buffer<T>(taps * square);
                }
            }
        }
    }

    // The gradient of a state without what comes back through the operations that leave it.
    T* begin_gradient(int source, int image) {
        if (source < program.inputs) {
            const size_t values = static_cast<size_t>(outside.height) * outside.width * channels.count;
            T* gradient = call.input_gradients[source] + image * values;
            std::fill(gradient, gradient + values, T(0));
            return gradient;
        }
        T* gradient = this->node_gradient(source - program.inputs, image);
        begin(source, image, 0, channels.count, gradient);
        return gradient;
    }

    // Copies `count` channels of a state's gradient, from number `first` on, from that of the output; zeros if it is not in
    // the output.
    void begin(int source, int image, int first, int count, T* gradient) const {
        const int place = source < program.inputs ? -1 : program.concat[source - program.inputs];
        if (place < 0) {
            std::fill(gradient, gradient + pixels * count, T(0));
            return;
        }
        const size_t total = this->state_channels(), row = program.concatenated * total;
        const T* from = call.output_gradient + image * pixels * row + place * total + first;
        for (size_t pixel = 0; pixel < pixels; pixel++) copy(from + pixel * row, count, gradient + pixel * count);
    }

    // The gradient of the channels of a state that pass the operations by.
    void pass_back(int source, int image, T* passing) const {
        begin(source, image, channels.count, program.outer, passing);
        for (const Edge& edge : program.departing[source])
            add_scaled_values(this->outer_gradient(edge.node, image), call.shares[edge.share], outer_length, passing);
    }

    // Makes of a node's gradient, of both kinds of channels, those of the sums of which `shuffle` made it: that of the
    // operations in the place of `inner`, the other one where it is kept.
    void sort(int node, int image, T* inner, const T* passing, T* state) const {
        const int count = channels.count, parts = program.partial;
        T* outer = this->outer_gradient(node, image);
        for (size_t pixel = 0; pixel < pixels; pixel++) {
            copy(inner + pixel * count, count, state);
            copy(passing + pixel * program.outer, program.outer, state + count);
            for (int c = 0; c < count; c++) inner[pixel * count + c] = state[c * parts];
            for (int p = 1; p < parts; p++)
                for (int c = 0; c < count; c++) outer[pixel * program.outer + (p - 1) * count + c] = state[c * parts + p];
        }
    }

    // Adds what an image gives to the gradients of the shares of all edges to a node.
    void add_shares(int node, int image, Bench<T>& bench, double* sums) const {
        for (const Edge& edge : program.arriving[node])
            add_sums<T>(this->outer_gradient(node, image), this->outer(edge.source, image), nullptr, outer_length, 1, bench,
                        &sums[edge.share]);
    }

    void write_shares(int node) const {
        for (const Edge& edge : program.arriving[node]) {
            double total = 0;
            for (const std::vector<double>& part : share_sums) total += part.empty() ? 0 : part[edge.share];
            call.share_gradients[edge.share] = static_cast<T>(total);
        }
    }

    // Forms the gradient of a raw map, compact, from the gradient of its normalised map and a row of coefficients.
    const T* raw_gradient(const Geometry& g, const T* gradient, const T* map, int row, T drop, Scratch<T>& scratch) {
        T* to = g.is_map() ? scratch.compact.data : scratch.flat.data;
        combine<T, false>(gradient, map, row_of(row), drop, length, period, to);
        if (!g.is_map()) g.from_map(to, scratch.compact.data);
        return scratch.compact.data;
    }

    // Goes back through the convolutions of one stage: adds the gradients of the weights, and that of the rectified input
    // to scratch.input_gradient; `first`: there is nothing yet that it could be added to.
    void go_back(const Geometry& g, int i, int stage, const T* raw, bool first, Scratch<T>& scratch, int number) {
        static const std::vector<Tap> here = {{0, 0}};
        const Operation& operation = program.operation[i];
        const std::vector<Tap>& taps = this->taps(i, stage).there;
        const T *matrix = packed[i].matrix[stage].data, *filters = packed[i].depthwise[stage].data;
        T *rectified = scratch.rectified.data, *outputs = scratch.outputs.data;
        if (operation.kind == CHAIN) {
            product<T, false>(raw, g.compact, outputs, g.writes, here, matrix, channels.count, channels);
            if (call.needs_weights) {
                typename P::Packed& own = this->gradients[number][i];
                depthwise<T, false>(rectified, g.reads, scratch.filtered.data, g.compact, taps, filters, channels);
                outer<T>(scratch.filtered.data, g.compact, here, raw, g.compact, own.matrix[stage].data, channels, channels);
                T* sums = own.depthwise[stage].data;
                switch (operation.kernel) {
                    case 1: correlate<T, 1>(rectified, g.reads, outputs, g.writes, taps, sums, channels); break;
                    case 3: correlate<T, 3>(rectified, g.reads, outputs, g.writes, taps, sums, channels); break;
                    case 5: correlate<T, 5>(rectified, g.reads, outputs, g.writes, taps, sums, channels); break;
                    default: correlate<T, 7>(rectified, g.reads, outputs, g.writes, taps, sums, channels);
                }
            }
        } else {
            for (int p = 0; p < g.compact.count; p++) copy(raw + g.compact.at[p], channels.unit, outputs + g.writes.at[p]);
            if (call.needs_weights)
                outer<T>(rectified, g.reads, taps, raw, g.compact, this->gradients[number][i].matrix[stage].data, channels,
                         channels);
        }
        T* into = scratch.input_gradient.data;
        const int count = channels.count;
        // With stride 2 there are phases that no tap reaches.
        if (first && g.stride > 1) std::fill_n(into, g.size, T(0));
        for (size_t phase = 0; phase < g.phases.size(); phase++) {
            const Positions &from = g.phases[phase].outputs, &to = g.phases[phase].inputs;
            const std::vector<Tap>& back = this->taps(i, stage).back[phase];
            if (back.empty()) continue;
            const bool alone = first && g.stride == 1;
            if (operation.kind == CHAIN && alone)
                depthwise<T, false>(outputs, from, into, to, back, filters, channels);
            else if (operation.kind == CHAIN)
                depthwise<T, true>(outputs, from, into, to, back, filters, channels);
            else if (alone)
                product<T, false>(outputs, from, into, to, back, matrix, count, channels);
            else
                product<T, true>(outputs, from, into, to, back, matrix, count, channels);
        }
    }

    // The gradient of a normalised first half, and its sums.
    void second_half(int i, const Normaliser<T>& normaliser, int image, Scratch<T>& scratch, int number) {
        const Operation& operation = program.operation[i];
        const Entry& entry = program.entry[program.entries_of[i][0]];
        const T *half = this->map(operation.first, image), *second = this->map(operation.second, image);
        const T* raw = raw_gradient(inside, this->node_gradient(entry.node, image), second, program.entries_of[i][0],
                                    this->drop_of(entry, image), scratch);
        T *rectified = scratch.rectified.data, *into = scratch.input_gradient.data;
        inside.template fill<T, true>(half, &normaliser, rectified);
        go_back(inside, i, 1, raw, true, scratch, number);
        T* gradient = this->half_gradient(operation.half, image);
        inside.each_run([&](size_t place, int at, int length) {
            for (int k = 0; k < length; k++) gradient[place + k] = rectified[at + k] <= 0 ? 0 : into[at + k];
        });
        double* sums = &this->sums[number][static_cast<size_t>(program.entries + operation.half) * 2 * channels.count];
        add_sums<T>(gradient, nullptr, nullptr, pixels, channels.count, scratch.bench, sums);
        add_sums<T>(gradient, half, normaliser.means.data(), pixels, channels.count, scratch.bench, sums + channels.count);
    }

    // Adds what comes back through all operations that leave a source to its gradient.
    void enter(int source, int image, Scratch<T>& scratch, int number, T* gradient) {
        const Geometry& g = this->geometry(source);
        const T* state = this->state(source, image);
        bool convolved = false, pooled = false;
        for (int i : program.leaving[source]) {
            const Operation& operation = program.operation[i];
            if (operation.kind == SKIP) {
                for (int e : program.entries_of[i]) {
                    const Entry& entry = program.entry[e];
                    combine<T, true>(this->node_gradient(entry.node, image), nullptr, row_of(e), this->drop_of(entry, image),
                                     length, period, gradient);
                }
            } else if (operation.kind == MAXIMUM || operation.kind == AVERAGE) {
                if (!pooled) std::fill_n(scratch.plain_gradient.data, g.size, T(0)), pooled = true;
                pool(g, i, image, scratch);
            } else {
                if (!convolved) g.template fill<T, true>(state, nullptr, scratch.rectified.data);
                const int e = program.entries_of[i][0];
                const bool half = operation.second >= 0;
                const T* incoming =
                    half ? this->half_gradient(operation.half, image) : this->node_gradient(program.entry[e].node, image);
                const T* raw =
                    raw_gradient(g, incoming, this->map(operation.first, image), half ? program.entries + operation.half : e,
                                 half ? T(1) : this->drop_of(program.entry[e], image), scratch);
                go_back(g, i, 0, raw, !convolved, scratch, number);
                convolved = true;
            }
        }
        const T *rectified = scratch.rectified.data, *masked = scratch.input_gradient.data,
                *plain = scratch.plain_gradient.data;
        if (convolved)
            g.each_run([&](size_t place, int at, int length) {
                for (int k = 0; k < length; k++) gradient[place + k] += rectified[at + k] <= 0 ? 0 : masked[at + k];
            });
        if (pooled)
            g.each_run([&](size_t place, int at, int length) {
                for (int k = 0; k < length; k++) gradient[place + k] += plain[at + k];
            });
    }

    // Adds what comes back through a pool to scratch.plain_gradient.
    void pool(const Geometry& g, int i, int image, Scratch<T>& scratch) {
        constexpr int lanes = LANES<T>;
        using Integers = typename Simd<T>::Integers;
        const Operation& operation = program.operation[i];
        T* flat = scratch.flat.data;
        bool any = false;
        for (int e : program.entries_of[i]) {
            const T *g_node = this->node_gradient(program.entry[e].node, image), *map = this->map(operation.first, image);
            const T* z = norm[operation.first] ? map : nullptr;
            const T drop = this->drop_of(program.entry[e], image);
            if (any)
                combine<T, true>(g_node, z, row_of(e), drop, length, period, flat);
            else
                combine<T, false>(g_node, z, row_of(e), drop, length, period, flat);
            any = true;
        }
        const T* incoming = flat;
        if (!g.is_map()) g.from_map(flat, scratch.compact.data), incoming = scratch.compact.data;
        if (operation.kind == AVERAGE) {
            const T* share = this->shares(operation.source);
            for (int p = 0; p < g.compact.count; p++)
                for (int v = 0; v < channels.unit; v += lanes) {
                    const int at = g.compact.at[p] + v;
                    store(scratch.outputs.data + g.writes.at[p] + v, load(incoming + at) * load(share + at));
                }
            for (size_t number = 0; number < g.phases.size(); number++)
                depthwise<T, true>(scratch.outputs.data, g.phases[number].outputs, scratch.plain_gradient.data,
                                   g.phases[number].inputs, this->taps(i, 0).back[number], packed[i].depthwise[0].data,
                                   channels);
            return;
        }
        const std::vector<Tap>& taps = this->taps(i, 0).there;
        const uint8_t* places = this->places(operation.maximum, image);
        for (int p = 0; p < g.compact.count; p++)
            for (int v = 0; v < channels.unit; v += lanes) {
                const int at = g.compact.at[p] + v;
                const Vector<T> value = load(incoming + at);
                typename Simd<T>::Octets octets;
                std::memcpy(&octets, places + at, sizeof octets);
                const Integers place = __builtin_convertvector(octets, Integers);
                T* to = scratch.plain_gradient.data + g.reads.at[p] + v;
                for (int t = 0; t < MAXIMUM_TAPS; t++) {
                    const Vector<T> won = place == t ? value : Vector<T>{};
                    store(to + taps[t].offset, load(to + taps[t].offset) + won);
                }
            }
    }

    // The means of the maps that enter a node, as periods; empty for a map that is not normalised.
    std::vector<std::vector<T>> centres_of(int node) {
        std::vector<std::vector<T>> centres;
        for (int e : program.entering[node]) {
            const int map = program.entry[e].map;
            centres.emplace_back();
            if (map < 0 || !norm[map]) continue;
            centres.back().resize(period);
            write_period<T>(this->statistic(map, 0), channels.count, 1, centres.back().data());
        }
        return centres;
    }

    // Adds the sums over one image of a node's gradient g, and of g * (map - mean), for the maps that enter the node.
    void add_entries(int node, int image, const T* gradient, const std::vector<std::vector<T>>& centres, Bench<T>& bench,
                     double* sums) {
        const std::vector<int>& entries = program.entering[node];
        if (entries.empty()) return;
        const int count = channels.count;
        std::vector<double> total(count), product(count);
        add_sums<T>(gradient, nullptr, nullptr, pixels, count, bench, total.data());
        for (size_t e = 0; e < entries.size(); e++) {
            const Entry& entry = program.entry[entries[e]];
            const T* values = entry.map >= 0 ? this->map(entry.map, image) : this->state(-1 - entry.map, image);
            const double drop = this->drop_of(entry, image);
            std::fill(product.begin(), product.end(), 0);
            add_sums<T>(gradient, values, centres[e].empty() ? nullptr : centres[e].data(), pixels, count, bench,
                        product.data());
            double* own = sums + static_cast<size_t>(entries[e]) * 2 * count;
            for (int c = 0; c < count; c++) own[c] += drop * total[c], own[count + c] += drop * product[c];
        }
    }

    // The sums of a row over all threads: of g, and of g times the map.
    std::vector<double> totals(int row) {
        std::vector<double> found(2 * channels.count);
        for (const std::vector<double>& part : this->sums)
            for (int c = 0; c < 2 * channels.count; c++)
                found[c] += part.empty() ? 0 : part[static_cast<size_t>(row) * 2 * channels.count + c];
        return found;
    }

    // Closes a row: of its sums of g and g * (map - mean) makes the coefficients of the raw map's gradient, c1 * g + c2 * z
    // + c3 (see `norm_gradient` in ops/kernels/statistics.py), and the gradients of factor and term of its batch norm.
    // Returns the gradient of the weight.
    double close(int row, int map, T weight) {
        const double count = static_cast<double>(call.batch) * pixels;
        const bool normalise = map >= 0 && norm[map], follows = normalise && call.batch_statistics;
        const std::vector<double> sums = totals(row);
        std::vector<T> found[3];
        for (std::vector<T>& each : found) each.resize(channels.count);
        double gradient = 0;
        for (int c = 0; c < channels.count; c++) {
            const double rstd = normalise ? this->statistic(map, 1)[c] : 1;
            const double plain = sums[c], product = sums[channels.count + c] * rstd;
            const double factor = normalise ? this->affine(map, 0, c) : 1, term = normalise ? this->affine(map, 1, c) : 0;
            const double c1 = weight * factor * rstd, c2 = follows ? -c1 * rstd * product / count : 0;
            found[0][c] = static_cast<T>(c1), found[1][c] = static_cast<T>(c2);
            found[2][c] = follows ? static_cast<T>(-c1 * plain / count - c2 * this->statistic(map, 0)[c]) : 0;
            gradient += factor * product + term * plain;
            if (!call.needs_weights || !normalise || !call.affine_gradients[2 * map]) continue;
            call.affine_gradients[2 * map][c] = static_cast<T>(weight * product);
            call.affine_gradients[2 * map + 1][c] = static_cast<T>(weight * plain);
        }
        for (int which = 0; which < 3; which++)
            write_period<T>(found[which].data(), channels.count, 1, coefficient(row, which));
        return gradient;
    }

    // Sums the gradients of operation i's weights over the threads and writes them as the weights lie.
    void write_gradients(int i, int members) {
        const Operation& operation = program.operation[i];
        const int count = channels.count, half = count / 2;
        for (int stage = 0; stage < program.stages(operation); stage++) {
            const int taps = static_cast<int>(this->taps(i, stage).there.size());
            typename P::Packed& sums = this->gradients[0][i];
            for (int member = 1; member < members; member++) {
                add_all(this->gradients[member][i].depthwise[stage], sums.depthwise[stage]);
                add_all(this->gradients[member][i].matrix[stage], sums.matrix[stage]);
            }
            T* const* to = &call.weight_gradients[4 * i + 2 * stage];
            auto matrix = [&](int tap) {
                return sums.matrix[stage].data + static_cast<size_t>(tap) * channels.padded * channels.unit;
            };
            if (operation.kind == CHAIN) {
                for (int c = 0; c < count; c++)
                    for (int t = 0; t < taps; t++) to[0][c * taps + t] = entry_of(sums.depthwise[stage].data, t, c, channels);
                for (int out = 0; out < count; out++)
                    for (int in = 0; in < count; in++) to[1][out * count + in] = entry_of(matrix(0), out, in, channels);
            } else if (operation.kind == DENSE) {
                for (int out = 0; out < count; out++)
                    for (int in = 0; in < count; in++)
                        for (int t = 0; t < taps; t++)
                            to[0][(out * count + in) * taps + t] = entry_of(matrix(t), out, in, channels);
            } else if (operation.kind == REDUCE) {
                for (int t = 0; t < taps; t++)
                    for (int out = 0; out < half; out++)
                        for (int in = 0; in < count; in++)
                            to[t][out * count + in] = entry_of(matrix(t), t * half + out, in, channels);
            }
        }
    }
};

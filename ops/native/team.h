// Threads of one call, and the points at which they wait for each other.
#pragma once

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

class Meeting {
  public:
    // Waits until the number of members is known, and returns it.
    int begin() {
        members.wait(0);
        return members;
    }

    // Tells all members that they are `count`.
    void open(int count) {
        members = count;
        members.notify_all();
    }

    // Returns when all members have called it.
    void wait() {
        if (members == 1) return;
        const int own = round;
        if (++arrived == members) {
            arrived = 0;
            round = own + 1;
            round.notify_all();
            return;
        }
        // To be woken takes longer than most members are late.
        for (int turn = 0; turn < TURNS; turn++) {
            if (round != own) return;
            pause();
        }
        round.wait(own);
    }

  private:
    static constexpr int TURNS = 2000;  // some 50 to 100 microseconds
    std::atomic<int> members{0}, arrived{0}, round{0};

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
};

#if defined(__linux__)
// Of the OpenMP runtime that torch has loaded for all, if it has.
extern "C" {
__attribute__((weak)) void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);
__attribute__((weak)) int omp_get_thread_num();
__attribute__((weak)) int omp_get_num_threads();
}
inline bool has_torch_threads() { return GOMP_parallel && omp_get_thread_num && omp_get_num_threads; }
#else
inline bool has_torch_threads() { return false; }
#endif

// Runs work(number, members, meeting) in up to `most` threads, of which the caller's is one; there are fewer where the
// system gives no more.
//
// The others are torch's: those of its runtime are awake for a while after each operation, and would be in the way of
// threads of our own. Without that runtime threads live for one call.
template <class Work>
void in_team(int most, Work work) {
    Meeting meeting;
    if (most == 1) {
        meeting.open(1);
        work(0, 1, meeting);
        return;
    }
#if defined(__linux__)
    if (has_torch_threads()) {
        struct Shared {
            Work& work;
            Meeting& meeting;
        } shared{work, meeting};
        auto run = [](void* data) {
            auto& [work, meeting] = *static_cast<Shared*>(data);
            const int number = omp_get_thread_num(), members = omp_get_num_threads();
            if (number == 0) meeting.open(members);
            meeting.begin();
            work(number, members, meeting);
        };
        GOMP_parallel(run, &shared, most, 0);
        return;
    }
#endif
    std::vector<std::thread> others;
    try {
        for (int number = 1; number < most; number++)
            others.emplace_back([&, number] { work(number, meeting.begin(), meeting); });
    } catch (const std::system_error&) {
    }
    const int members = static_cast<int>(others.size()) + 1;
    meeting.open(members);
    work(0, members, meeting);
    for (std::thread& other : others) other.join();
}

// The first of `count` things that are member `number`'s, in shares of one size; its last one ends at number + 1.
inline int share(int count, int members, int number) { return static_cast<int>(static_cast<long>(count) * number / members); }
